import { byName } from '../model/records.ts'

/** A JSON line that `molt` printed. Keeps unknown fields, because the tools change every month. */
export interface MoltEvent {
  level?: string
  message?: string
  type?: string
  [field: string]: unknown
}

/** Parses a line of output. Returns undefined if the line is not an event but, for example, a prompt or help text. */
export function parseEvent(line: string): MoltEvent | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const value: unknown = JSON.parse(line)
    if (!value || typeof value !== 'object' || Array.isArray(value)) return undefined
    const event = value as MoltEvent
    // Callers expect these fields to be strings. Any other type would make the whole step fail.
    for (const field of ['level', 'message', 'type'] as const)
      if (field in event && typeof event[field] !== 'string') event[field] = JSON.stringify(event[field])
    return event
  } catch {
    return undefined
  }
}

/** Levels that are not errors. Any other level counts as an error. */
const CALM = /^(|trace|debug|info|notice|warn|warning)$/i

export function isError({ level }: MoltEvent): boolean {
  return !CALM.test(String(level ?? ''))
}

/** The bare name in `public.orders`, `"Public"."Orders"` or `{public orders}`. */
export function bareName(table: unknown): string {
  const text = String(table ?? '')
    .replace(/[{}"]/g, '')
    .trim()
  return text.split(/[. ]/).slice(1).join('.') || text
}

/** The bare name of a table in `schema`; `schema.table` for a table in another schema. */
export function nameWithin(schema: string, table: unknown): string {
  const text = String(table ?? '')
    .replace(/[{}"]/g, '')
    .trim()
  const own = [`${schema}.`, `${schema} `].find((prefix) => text.startsWith(prefix))
  return own ? text.slice(own.length) : text.replace(' ', '.')
}

export function numberField(event: MoltEvent, field: string): number {
  const value = Number(event[field])
  return Number.isFinite(value) ? value : 0
}

/** Counts a tool's unknown output, so that we notice what a new version changes. */
export interface Unknowns {
  /** Message → number of occurrences, for at most {@link UNKNOWN_LIMIT} messages. */
  messages: Record<string, number>
  /** Lines that are not JSON, such as prompts and help texts. */
  chatter: number
  /** Lines that begin like an event but are truncated, invalid or too long. */
  broken: number
}

const UNKNOWN_LIMIT = 50

export function noUnknowns(): Unknowns {
  return { messages: byName(), chatter: 0, broken: 0 }
}

export function countUnknown(unknowns: Unknowns, message: string): void {
  const known = message in unknowns.messages
  const key = known || Object.keys(unknowns.messages).length < UNKNOWN_LIMIT ? message : 'others'
  unknowns.messages[key] = (unknowns.messages[key] ?? 0) + 1
}

export function countChatter(unknowns: Unknowns, line: string): void {
  if (line.startsWith('{')) unknowns.broken++
  else if (line.trim()) unknowns.chatter++
}
