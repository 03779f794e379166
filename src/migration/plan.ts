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

/** Settings that decide what is moved and how. Hosts, credentials, data and times are none of them. */
export interface PlanSettings {
  sourceSchema: string
  targetSchema: string
  tables: readonly string[]
  slot: string
  publication: string
  waivers?: readonly string[]
  defer?: string
  /** What is compared while writes are paused; `full` when nothing is said. */
  finalVerify?: VerifyLevel
  /** Program → sha256, of those that were there. */
  tools?: Readonly<Record<string, string>>
}

/** sha256 in hex; the order in which tables or waivers were written makes no difference. */
export function planHash(settings: PlanSettings): string {
  const { sourceSchema, targetSchema, slot, publication, defer = 'none', tools = {} } = settings
  const plan = {
    sourceSchema,
    targetSchema,
    tables: [...settings.tables].sort(),
    slot,
    publication,
    waivers: [...(settings.waivers ?? [])].sort(),
    defer,
    finalVerify: settings.finalVerify === 'full' ? undefined : settings.finalVerify,
    tools,
  }
  return createHash('sha256').update(canonicalJson(plan)).digest('hex')
}
