/** A PostgreSQL collation, as its catalog reports it. */
export interface CollationFacts {
  provider: 'icu' | 'libc' | 'builtin' | 'default'
  locale: string
  deterministic: boolean
}

/** CockroachDB's name for a collation's locale; null for byte order, undefined if CockroachDB has no such locale. */
export function localeOf({ provider, locale, deterministic }: CollationFacts): string | null | undefined {
  if (/^(C|POSIX|C\.UTF-?8)$/i.test(locale)) return null
  if (!deterministic || provider === 'builtin') return undefined
  const name = locale.replace(/\..*$/, '').replaceAll('_', '-')
  return /^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*$/.test(name) ? name : undefined
}
