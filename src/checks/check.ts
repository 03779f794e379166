import type { Side } from '../runtime/database.ts'
import { InputError } from '../runtime/errors.ts'
import { someOf } from '../runtime/progress.ts'
import type { Facts } from './facts/facts.ts'

export const SEVERITIES = ['block', 'warn', 'info'] as const
export type Severity = (typeof SEVERITIES)[number]

/** A problem to look for, with its fix. `find` reads only the facts and changes nothing. */
export interface Check {
  /** Must stay stable, because waivers, annotations and links refer to it. */
  id: string
  severity: Severity
  title: string
  /** What happens if the finding is ignored. */
  protects: string
  /** SQL or a setting, with placeholders in braces, which each hit fills in. */
  fix: string
  /** False where a later step would fail anyway, so a waiver would only postpone the failure. */
  waivable?: false
  find(facts: Facts): Iterable<Hit>
}

/** One finding: the object and what is wrong with it. */
export interface Hit {
  /** The name to use in a waiver: `schema.table`, `schema.table.column`, a role, `source`, `target` … */
  object: string
  what: string
  /** Values for the placeholders in the check's fix. */
  names?: Record<string, string | number>
  /** SQL for `apply: true`. It never drops or restarts anything, and never makes a role a superuser. */
  apply?: { side: Side; sql: string }
}

export interface Finding {
  check: string
  severity: Severity
  object: string
  what: string
  fix: string
  /** The waiver that matched, if any. */
  waivedBy?: string
  apply?: { side: Side; sql: string }
}

/** Accepts a check's findings about one object, or about all objects if `object` is `*`. */
export interface Waiver {
  check: string
  object: string
}

export const DOCS = 'docs/checks.md'

/** The anchor that GitHub gives a check's heading in {@link DOCS}. */
export function anchorOf(id: string): string {
  return id.replaceAll('.', '')
}

/** Runs every check. Waived findings are kept and marked. */
export function runChecks(checks: readonly Check[], facts: Facts, waivers: readonly Waiver[] = []): Finding[] {
  return checks.flatMap((check) =>
    [...check.find(facts)].map(({ object, what, names, apply }) => {
      const waiver = check.waivable === false ? undefined : waivers.find((each) => covers(each, check.id, object))
      return {
        check: check.id,
        severity: check.severity,
        object,
        what,
        fix: fill(check.fix, names ?? {}),
        ...(waiver && { waivedBy: waiverText(waiver) }),
        ...(apply && { apply }),
      }
    }),
  )
}

/** Whether a waiver applies. Both `orders` and `public.orders` cover `public.orders` and `public.orders.total`. */
function covers(waiver: Waiver, check: string, object: string): boolean {
  if (waiver.check !== check) return false
  const names = [object, object.slice(object.indexOf('.') + 1)]
  return waiver.object === '*' || names.some((name) => name === waiver.object || name.startsWith(`${waiver.object}.`))
}

export function waiverText(waiver: Waiver): string {
  return `${waiver.check}=${waiver.object}`
}

/**
 * Rejects invalid waivers. A waiver that matches no finding usually has a misspelled name.
 * @throws InputError for an unknown check, a check that cannot be waived, or a waiver that matches nothing
 */
export function requireWaiversMatch(
  checks: readonly Check[],
  waivers: readonly Waiver[],
  findings: readonly Finding[],
): void {
  for (const waiver of waivers) {
    const check = checks.find((each) => each.id === waiver.check)
    const text = `input \`waive\`: \`${waiverText(waiver)}\``
    if (!check) throw new InputError('waiver.unknown-check', `${text} is not a known check. ${DOCS} lists all checks`)
    if (check.waivable === false)
      throw new InputError(
        'waiver.not-allowed',
        `${text}: ${check.id} cannot be waived, because a later step would fail anyway. Fix the finding instead`,
      )
    if (findings.some((found) => covers(waiver, found.check, found.object))) continue
    const objects = findings.filter((found) => found.check === waiver.check).map((found) => found.object)
    const there = objects.length ? `${check.id} found ${someOf(objects, 5)}` : `${check.id} found nothing`
    throw new InputError('waiver.unused', `${text} matches nothing: ${there}. Remove the waiver, or correct its name`)
  }
}

function fill(template: string, names: Record<string, string | number>): string {
  return template.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = names[name]
    if (value === undefined) throw new Error(`the fix "${template}" has no value for {${name}}`)
    return String(value)
  })
}

/** Caches a value that several checks compute from the same facts. */
export function once<T>(compute: (facts: Facts) => T): (facts: Facts) => T {
  const known = new WeakMap<Facts, T>()
  return (facts) => {
    if (!known.has(facts)) known.set(facts, compute(facts))
    return known.get(facts) as T
  }
}

/** Whether the target is CockroachDB of this version or newer. */
export function cockroachSince(facts: Facts, major: number, minor: number): boolean {
  const { server } = facts.target
  return server.isCockroach && (server.major > major || (server.major === major && server.minor >= minor))
}
