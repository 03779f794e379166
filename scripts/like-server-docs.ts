import type { Fact } from '../rehearsal/cockroach/rule.ts'
import { CATALOG_FACTS, RULES } from '../rehearsal/cockroach/rules/statements.ts'

export function likeServerCounts(): { rules: number; seen: number } {
  const facts: readonly Fact[] = [...CATALOG_FACTS, ...RULES]
  return { rules: facts.length, seen: facts.filter((fact) => fact.seen).length }
}

/** `docs/like-server.md`: every rule of the CockroachDB-like server, with its source. */
export function likeServerDocs(): string {
  const facts = [...CATALOG_FACTS, ...RULES].sort((a, b) => (a.id < b.id ? -1 : 1))
  const { seen } = likeServerCounts()
  return `<!-- Generated from rehearsal/cockroach by \`npm run build\`. Edit the source instead. -->

# The CockroachDB-like server

\`npm run rehearse\` loads into a server that behaves like CockroachDB: a wire protocol proxy in front of an
embedded PostgreSQL. It is not CockroachDB. It applies the rules below, and refuses every statement without a rule.
Of its ${facts.length} rules, ${seen} were confirmed on a real cluster; ${facts.length - seen} come from documentation and source code.

The server identifies itself in \`version()\`, for example \`CockroachDB CCL v25.2.0 (molt-actions like-server on PostgreSQL 16.14)\`.

| rule | CockroachDB | versions | source |
| --- | --- | --- | --- |
${facts.map((fact) => `| \`${fact.id}\` | ${fact.says.replaceAll('|', '\\|')} | ${versions(fact)} | ${fact.source} |`).join('\n')}

Options of \`npm run rehearse\`: \`--target-version\` selects the version, \`--latency\` delays each round trip, \`--ddl\`
delays each schema change and grant, and \`--retry-rate\` makes a share of the statements fail with 40001.
`
}

function versions({ since, until }: Fact): string {
  if (since && until) return `from ${since.join('.')}, before ${until.join('.')}`
  if (since) return `from ${since.join('.')}`
  return until ? `before ${until.join('.')}` : 'all'
}
