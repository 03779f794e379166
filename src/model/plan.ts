import { createHash } from 'node:crypto'
import type { Decided } from './structure.ts'

/** JSON with sorted keys and without undefined values: equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, each) =>
    each && typeof each === 'object' && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  )
}

/**
 * Levels of comparison, strictest first. `full` compares every row, with molt and with hashes that both databases
 * compute. `molt` compares every row with molt only, `counts` only row counts, and `tables` only definitions.
 */
export const VERIFY_LEVELS = ['full', 'molt', 'counts', 'tables'] as const
export type VerifyLevel = (typeof VERIFY_LEVELS)[number]

/**
 * Levels of comparison in the write pause, strictest first. `changed` compares the rows that changed last, and relies
 * on the rolling proof for all others. `auto` means `full` if that is short enough, otherwise `changed`.
 */
export const FINAL_VERIFIES = ['full', 'auto', 'changed', 'molt', 'counts', 'tables'] as const
export type FinalVerify = (typeof FINAL_VERIFIES)[number]
/** Levels that a report can claim to have compared. */
export type ReportLevel = VerifyLevel | 'changed'

/**
 * The decisions that must not change during a migration: what is moved, and how. Contains no hosts, credentials, data
 * or times. Stored as JSON in the ledger; later phases must match it.
 */
export interface Plan {
  sourceSchema: string
  targetSchema: string
  /** The expected tables, bare names, resolved once on the source. */
  tables: string[]
  /** Tables of the schema that were excluded by name; absent when tables were listed. */
  excluded?: string[]
  slot: string
  publication: string
  /** Accepted findings, as `check=object`. */
  waivers?: string[]
  /** What is dropped on the target for the load: `none`, or a list such as `indexes,constraints`. */
  defer?: string
  /** What `convert.yml` decides about definitions of the expected tables; absent without decisions. */
  decided?: Decided[]
  /** Default `auto`. */
  finalVerify?: FinalVerify
  /** The target is the CockroachDB-like server. The hash differs, so its rehearsals do not count for a real cluster. */
  likeServer?: boolean
  /** Program → sha256, for the tools that `prepare` found installed. */
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
