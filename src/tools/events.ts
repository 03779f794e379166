/** One JSON line of `molt`. Unknown fields are kept: the tools change every month. */
export interface MoltEvent {
  level?: string
  message?: string
  type?: string
  [field: string]: unknown
}

/** The event on a line of output, or undefined for anything else (prompts, usage, other tools' chatter). */
export function parseEvent(line: string): MoltEvent | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    const value: unknown = JSON.parse(line)
    return value && typeof value === 'object' && !Array.isArray(value) ? (value as MoltEvent) : undefined
  } catch {
    return undefined
  }
}

/** The bare name in `public.orders`, `"Public"."Orders"` or `{public orders}`. */
export function bareName(table: unknown): string {
  const text = String(table ?? '')
    .replace(/[{}"]/g, '')
    .trim()
  return text.split(/[. ]/).slice(1).join('.') || text
}

export function numberField(event: MoltEvent, field: string): number {
  const value = Number(event[field])
  return Number.isFinite(value) ? value : 0
}
