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
 * What is compared, strictest first: `full` compares every row, by molt and by hashes that both databases compute; `molt`
 * every row by molt alone, `counts` only row counts, `tables` only definitions.
 */
export const VERIFY_LEVELS = ['full', 'molt', 'counts', 'tables'] as const
export type VerifyLevel = (typeof VERIFY_LEVELS)[number]

/**
 * What is compared while writes are paused, strictest first. `changed` compares the rows that changed last, and relies on
 * the rolling proof for all others; `auto` is `full` where that is short, otherwise `changed`.
 */
export const FINAL_VERIFIES = ['full', 'auto', 'changed', 'molt', 'counts', 'tables'] as const
export type FinalVerify = (typeof FINAL_VERIFIES)[number]
/** Levels that a report can claim to have compared. */
export type ReportLevel = VerifyLevel | 'changed'

/**
 * What was decided and must not change during a migration: what is moved, and how. Hosts, credentials, data and times are
 * not part of it. Stored as JSON in the ledger; later phases must match it.
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
  /** `check=object`, as given: findings that were accepted. */
  waivers?: string[]
  /** What is dropped on the target for the load, as in `prepare`: `none`, or a list such as `indexes,constraints`. */
  defer?: string
  /** What `convert.yml` decides about definitions of the expected tables; absent without decisions. */
  decided?: Decided[]
  /** What is compared while writes are paused; `auto` by default. */
  finalVerify?: FinalVerify
  /** The target only answers like CockroachDB. Its rehearsals have another hash, and count for no plan of a cluster. */
  likeServer?: boolean
  /** Program → sha256, for programs installed when it was prepared. */
  tools?: Record<string, string>
  /** {@link planHash} of all of this. */
  hash?: string
}

/** sha256 in hex; the order of tables or waivers does not matter. */
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
