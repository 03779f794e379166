// Rewords PostgreSQL's errors as CockroachDB words them.

import { OF_TABLE } from './rules/names.ts'

interface Wording {
  code: string
  matches: RegExp
  says: (groups: string[], user: string) => string
}

/** Source of the wording: pkg/sql/sqlerrors, pkg/sql/row/errors.go, pkg/sql/authorization.go. */
const WORDINGS: Wording[] = [
  {
    code: '42501',
    matches: /^permission denied for (?:table|view|sequence|relation) (.+)$/,
    says: ([name], user) => `user ${user} does not have privilege on relation ${name}`,
  },
  {
    code: '42501',
    matches: /^permission denied for schema (.+)$/,
    says: ([name], user) => `user ${user} does not have CREATE privilege on schema ${name}`,
  },
  {
    code: '42501',
    matches: /^permission denied for database (.+)$/,
    says: ([name], user) => `user ${user} does not have CREATE privilege on database ${name}`,
  },
  {
    code: '23514',
    matches: /^new row for relation ".+" violates check constraint "(.+)"$/,
    says: ([name]) => `failed to satisfy CHECK constraint (${name})`,
  },
  {
    code: '23502',
    matches: /^null value in column "(.+?)" of relation ".+" violates not-null constraint$/,
    says: ([name]) => `null value in column "${name}" violates not-null constraint`,
  },
]

/** @param fields fields of an ErrorResponse, keyed by letter */
export function wording(fields: Map<string, string>, user: string): Map<string, string> {
  for (const letter of ['M', 'n'])
    if (fields.get(letter)?.includes(OF_TABLE))
      fields.set(letter, fields.get(letter)?.replace(new RegExp(`${OF_TABLE}[0-9]+`, 'g'), '') as string)
  const message = fields.get('M') ?? ''
  for (const { code, matches, says } of WORDINGS) {
    const groups = fields.get('C') === code ? matches.exec(message) : null
    if (groups) return new Map([...fields, ['M', says(groups.slice(1), user)]])
  }
  return fields
}
