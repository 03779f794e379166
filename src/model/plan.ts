import { createHash } from 'node:crypto'

/** JSON with sorted keys and without what is undefined: equal values give equal text. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, each) =>
    each && typeof each === 'object' && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  )
}

/**
 * What is compared, from the strictest on: `full` compares every row, by molt and by hashes that both databases compute;
 * `molt` by molt alone, `counts` only the numbers of rows, `tables` only the definitions.
 */
export const VERIFY_LEVELS = ['full', 'molt', 'counts', 'tables'] as const
export type VerifyLevel = (typeof VERIFY_LEVELS)[number]

/**
 * What is compared while writes are paused, from the strictest on. `changed` compares the rows that changed last, and
 * rests on the rolling proof for all others; `auto` is `full` where that is short, else `changed`.
 */
export const FINAL_VERIFIES = ['full', 'auto', 'changed', 'molt', 'counts', 'tables'] as const
export type FinalVerify = (typeof FINAL_VERIFIES)[number]
/** What a report can say that it has compared. */
export type ReportLevel = VerifyLevel | 'changed'

/**
 * What was decided, and must not change underneath a migration: what is moved, and how. Hosts, credentials, data and times
 * are no part of it. Stored as JSON in the ledger; later phases are held to it.
 */
export interface Plan {
  sourceSchema: string
  targetSchema: string
  /** The expected tables, bare names, resolved once on the source. */
  tables: string[]
  /** Tables of the schema that were left out by name where all others were asked for; absent where tables were named. */
  excluded?: string[]
  slot: string
  publication: string
  /** `check=object`, as they were given: what was accepted although a check speaks against it. */
  waivers?: string[]
  /** What is taken off the target for the load, as `prepare` takes it: `none`, or a list such as `indexes,constraints`. */
  defer?: string
  /** What is compared while writes are paused; `auto` when nothing is said. */
  finalVerify?: FinalVerify
  /** Program → sha256, of those that were there when it was prepared. */
  tools?: Record<string, string>
  /** {@link planHash} of all of this. */
  hash?: string
}

/** sha256 in hex; the order in which tables or waivers were written makes no difference. */
export function planHash(plan: Plan): string {
  const { sourceSchema, targetSchema, slot, publication, defer = 'none', tools = {} } = plan
  const hashed = {
    sourceSchema,
    targetSchema,
    tables: [...plan.tables].sort(),
    excluded: plan.excluded && [...plan.excluded].sort(),
    slot,
    publication,
    waivers: [...(plan.waivers ?? [])].sort(),
    defer,
    finalVerify: plan.finalVerify === 'auto' ? undefined : plan.finalVerify,
    tools,
  }
  return createHash('sha256').update(canonicalJson(hashed)).digest('hex')
}
