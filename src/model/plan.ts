import { createHash } from 'node:crypto'
import type { Decided } from './structure.ts'

/** JSON with sorted keys and without undefined values, so that equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, each) =>
    each && typeof each === 'object' && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  )
}

/**
 * Levels of comparison, strictest first. `full` compares every row, with molt and with hashes that both databases
 * compute. `molt` compares every row only with molt, `counts` compares only row counts, and `tables` only definitions.
 */
export const VERIFY_LEVELS = ['full', 'molt', 'counts', 'tables'] as const
export type VerifyLevel = (typeof VERIFY_LEVELS)[number]

/**
 * Levels of comparison during the write pause, strictest first. `changed` compares only the last changed rows and
 * relies on the rolling proof for all others. `auto` means `full` if that is fast enough, otherwise `changed`.
 */
export const FINAL_VERIFIES = ['full', 'auto', 'changed', 'molt', 'counts', 'tables'] as const
export type FinalVerify = (typeof FINAL_VERIFIES)[number]
/** Levels that can appear in a report. */
export type ReportLevel = VerifyLevel | 'changed'

/**
 * What is moved and how, which must not change during a migration. Contains no hosts, credentials, data or times.
 * Stored as JSON in the ledger, and later phases must match it.
 */
export interface Plan {
  sourceSchema: string
  targetSchema: string
  /** The expected tables as unqualified names, resolved once on the source. */
  tables: string[]
  /** Tables of the schema that were excluded by name; absent when tables were listed. */
  excluded?: string[]
  slot: string
  publication: string
  /** Accepted findings, as `check=object`. */
  waivers?: string[]
  /** What is dropped on the target before the load: `none`, or a list such as `indexes,constraints`. */
  defer?: string
  /** The decisions in `convert.yml` about definitions of the expected tables; absent if there are none. */
  decided?: Decided[]
  /** `auto` if absent. */
  finalVerify?: FinalVerify
  /**
   * Whether the target is the CockroachDB-like server. This changes the hash, so rehearsals on it do not count for a
   * real cluster.
   */
  likeServer?: boolean
  /** The sha256 of each tool that `prepare` found installed, by name. */
  tools?: Record<string, string>
  /** {@link planHash} of this plan. */
  hash?: string
}

/** Hex sha256 of a plan, independent of the order of tables and waivers. */
export function planHash(plan: Plan): string {
  const { sourceSchema, targetSchema, slot, publication, defer = 'none', decided, tools = {} } = plan
  const hashed = {
    sourceSchema,
    targetSchema,
    tables: [...plan.tables].sort(),
    excluded: plan.excluded && [...plan.excluded].sort(),
    slot,
    publication,
    waivers: [...(plan.waivers ?? [])].sort(),
    defer,
    decided,
    finalVerify: plan.finalVerify === 'auto' ? undefined : plan.finalVerify,
    likeServer: plan.likeServer || undefined,
    tools,
  }
  return createHash('sha256').update(canonicalJson(hashed)).digest('hex')
}
