import { parse } from 'yaml'
import { type Database, ident, literal, qualified } from '../runtime/database.ts'
import { plural } from '../runtime/progress.ts'
import { columnOf, fromItem, type MaskColumn, type MaskTable, readMaskTables } from './catalog.ts'
import { compared, meets } from './decisions.ts'
import { misfit } from './expressions.ts'
import { readable } from './json-paths.ts'
import { emailRule, type Suggestion, suggest } from './names.ts'
import { key, oneLine } from './plan.ts'
import { PATTERNS } from './proof.ts'
import type { Rule } from './rules.ts'

/** Number of rows to sample per table. */
const SAMPLE = 2000

/** Sampled documents that must have a JSON member before its name is reported. A rare name could be a value. */
const COMMON = 10

/**
 * Proposes a rules file from the catalog and from samples, which are matched inside the database. Only counts and the
 * names of common JSON members leave the database, never values.
 */
export async function proposeRules(
  db: Database,
  schema: string,
): Promise<{ yaml: string; columns: number; todo: number }> {
  const tables = await readMaskTables(db, schema)
  const references = await undeclared(db, tables)
  const covered = new Set(references.map(({ from }) => from))
  const labels = new Map(references.flatMap(({ from, label }) => (label ? [[label, from] as const] : [])))
  const lines: string[] = []
  let columns = 0
  for (const table of tables) {
    const found = await samples(db, table)
    const open = table.columns.filter(
      (column) => !isSafe(table, column) && !covered.has(`${table.name}.${column.name}`),
    )
    columns += table.columns.length
    lines.push(open.length ? `  ${key(table.name)}:` : `  ${key(table.name)}: {}`)
    open.forEach((column) => {
      const labelled = labels.get(`${table.name}.${column.name}`)
      const { rule, why } = labelled
        ? {
            rule: `{ keep: true, reason: ${JSON.stringify(`decides which table ${labelled} refers to`)} }`,
            why: 'a table name',
          }
        : fitting(column, refine(column, found.get(column.name)))
      lines.push(`    ${key(column.name)}: ${entityOf(rule, table, tables)} # ${oneLine(column.type)}: ${why}`)
    })
  }
  const yaml = [
    '# Proposed by `mask` with `propose: true`. Review every line: no person has decided anything yet.',
    '# yaml-language-server: $schema=https://raw.githubusercontent.com/OWNER/REPO/main/docs/mask.schema.json',
    'version: 1',
    'key: env:MOLT_MASK_KEY',
    '# Classes of columns that need no rule. Remove any that do not apply.',
    'safe:',
    '  surrogate-keys: true',
    '  foreign-keys: true',
    '  booleans: true',
    '  enums: true',
    '  timestamps: { jitter: 36h }',
    'tables:',
    ...lines,
    ...(references.length ? ['# References without a constraint, found by names and samples.', 'references:'] : []),
    ...references.map(({ line }) => `  - ${line}`),
    '',
  ].join('\n')
  return { yaml, columns, todo: yaml.split('\n').filter((line) => line.includes('TODO')).length }
}

/** Whether a safe class of the proposal covers a column. */
function isSafe(table: MaskTable, column: MaskColumn): boolean {
  if (column.generated || column.family === 'enum') return true
  if (column.family === 'boolean' && !column.array) return true
  if (column.family === 'timestamp' && !column.array && !column.unique) return true
  if (column.surrogate && table.key.includes(column.name)) return true
  return table.foreignKeys.some(({ columns }) => columns.includes(column.name))
}

/** Fills in `by` of a date rule: the foreign key to a person's table, or the table's own key. */
function entityOf(rule: string, table: MaskTable, tables: readonly MaskTable[]): string {
  if (!rule.includes('by: TODO')) return rule
  // Ignores self-references, such as `referred_by`: the dates of unrelated people would move together.
  const person = table.foreignKeys.find(
    ({ toTable }) =>
      toTable !== table.name && /customer|user|person|people|employee|account|member|patient|client/i.test(toTable),
  )
  const own = tables.length && table.key.length === 1 ? table.key[0] : undefined
  // A composite key often begins with the tenant, so the last column identifies the person.
  const by = person?.columns.at(-1) ?? own
  return by ? rule.replace('TODO', () => key(by)) : rule
}

/** Replaces a rule that the plan would refuse for this column. */
function fitting(column: MaskColumn, suggestion: Suggestion): Suggestion {
  const refused = (text: string) => {
    const rule = parse(text) as Rule
    return 'use' in rule && misfit(rule, column) !== undefined
  }
  if (!refused(suggestion.rule)) return suggestion
  if (!refused('{ use: hash }')) return { ...suggestion, rule: '{ use: hash }' }
  return {
    ...suggestion,
    rule: "{ keep: true, reason: 'TODO: no rule fits this column; state why it may be seen, or use sql' }",
  }
}

/** A path in the documents, with the JSON types of its values. */
interface Member {
  path: string
  kinds: string[]
}

interface Sampled {
  filled: number
  patterns: Record<string, number>
  members: Member[]
}

/** Patterns that match a whole value, for columns that contain nothing else. */
const WHOLE: [string, string][] = [
  ['only e-mail', String.raw`^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$`],
  ['only phone', String.raw`^(?![0-9]{2}[./-][0-9]{2}[./-][0-9]{4}$)(\+|0)[0-9 ()./-]{7,18}[0-9]$`],
  ['only card', '^[2-6][0-9]{3}([ -]?[0-9]){9,15}$'],
]

/** Samples a table: the matches of each pattern in text columns, and the common members of documents. */
async function samples(db: Database, table: MaskTable): Promise<Map<string, Sampled>> {
  const looked = table.columns.filter(({ family }) => family === 'text' || family === 'json')
  if (!looked.length) return new Map()
  const patterns = [...Object.entries(PATTERNS), ...WHOLE]
  const measures = looked.flatMap(({ name }, at) => [
    `count(${columnOf(name)})::int AS "${at}"`,
    ...patterns.map(
      ([, regex], p) => `count(*) FILTER (WHERE ${columnOf(name)}::text ~ ${literal(regex)})::int AS "${at} ${p}"`,
    ),
  ])
  const sample = `(SELECT * FROM ${fromItem(table)} LIMIT ${SAMPLE}) AS t`
  const { rows } = await db.query(`SELECT ${measures.join(', ')} FROM ${sample}`)
  const found = new Map<string, Sampled>()
  for (const [at, column] of looked.entries())
    found.set(column.name, {
      filled: rows[0][`${at}`],
      patterns: Object.fromEntries(patterns.map(([name], p) => [name, rows[0][`${at} ${p}`]])),
      members: column.family === 'json' && !column.array ? await members(db, table, column) : [],
    })
  return found
}

/** Number of documents to sample. */
const DOCUMENTS = 500
/** Number of levels of a document to read. */
const DEPTH = 8

/** The common members at every level. Skips documents that jsonb cannot represent. */
async function members(db: Database, table: MaskTable, { name, type }: MaskColumn): Promise<Member[]> {
  const document = type === 'jsonb' ? columnOf(name) : `(${readable(columnOf(name))})`
  const { rows } = await db.query(
    `WITH RECURSIVE member (document, path, v, depth) AS (
       SELECT row_number() OVER (), '', ${document}, 0
         FROM (SELECT * FROM ${fromItem(table)} AS t WHERE ${columnOf(name)} IS NOT NULL LIMIT ${DOCUMENTS}) AS t
       UNION ALL SELECT document, below.path, below.v, depth + 1 FROM member CROSS JOIN LATERAL (
         SELECT concat_ws('.', nullif(path, ''), k), e FROM jsonb_each(CASE jsonb_typeof(v) WHEN 'object' THEN v END) j(k, e)
          WHERE k ~ '^[A-Za-z_][A-Za-z0-9_-]{0,40}$'
         UNION ALL SELECT path || '[]', e FROM jsonb_array_elements(CASE jsonb_typeof(v) WHEN 'array' THEN v END) j(e)) below(path, v)
        WHERE depth < ${DEPTH})
     SELECT path, array_remove(array_agg(DISTINCT jsonb_typeof(v)), 'null') AS kinds FROM member WHERE path <> ''
      GROUP BY path HAVING count(DISTINCT document) >= ${COMMON} ORDER BY path COLLATE "C" LIMIT 300`,
  )
  // A rule describes arrays or objects at the root, not both. Use the more common one.
  const lists = rows.filter(({ path }) => path.startsWith('[]'))
  return leaves(lists.length * 2 > rows.length ? lists : rows.filter((each) => !lists.includes(each)))
}

/** The paths that need a rule: leaves, and paths with a value in some documents and members in others. */
function leaves(found: readonly Member[]): Member[] {
  const isBelow = (path: string, above: string) => [`${above}.`, `${above}[]`].some((start) => path.startsWith(start))
  const mixed = found.filter(({ kinds }) => kinds.length > 1 && (kinds.includes('object') || kinds.includes('array')))
  return found
    .filter(({ path }) => !mixed.some((above) => isBelow(path, above.path)))
    .filter((each) => mixed.includes(each) || !found.some(({ path }) => isBelow(path, each.path)))
}

/** The suggestion by name and type, adjusted to the sample. */
function refine(column: MaskColumn, sampled: Sampled | undefined): Suggestion {
  const byName = suggest(column)
  if (!sampled?.filled) return byName
  if (column.family === 'json' && sampled.members.length) {
    const paths = sampled.members.map((member) => `${JSON.stringify(pathOf(member))}: ${leafRule(member)}`)
    return {
      rule: `{ use: json, paths: { ${paths.join(', ')} } }`,
      why: `the common members of ${plural(Math.min(sampled.filled, DOCUMENTS), 'document')}`,
    }
  }
  const share = (name: string) => (sampled.patterns[name] ?? 0) / sampled.filled
  const personal = Object.keys(PATTERNS).filter((name) => share(name) > 0)
  if (share('only e-mail') > 0.8 && !column.array) return emailRule(column, 'contains e-mail addresses')
  if (share('only phone') > 0.8 && !column.unique && !column.array && !byName.rule.includes('use: phone'))
    return { rule: '{ use: phone }', why: 'contains telephone numbers' }
  if (share('only card') > 0.8 && !column.unique && !column.array)
    return { rule: '{ use: card }', why: 'contains card numbers' }
  if (personal.length && byName.rule.includes('keep'))
    return { rule: '{ use: text }', why: `contains ${personal.join(', ')}` }
  return personal.length ? { ...byName, why: `${byName.why}; the sample contains ${personal.join(', ')}` } : byName
}

/** The path for a rule. Adds `[]` to an array without sampled elements. */
function pathOf({ path, kinds }: Member): string {
  return kinds.join() === 'array' ? `${path}[]` : path
}

function leafRule({ path, kinds }: Member): string {
  if (kinds.length && kinds.every((kind) => kind === 'number' || kind === 'boolean'))
    return `{ keep: true, reason: 'TODO: a ${kinds.join(' or ')}' }`
  if (kinds.includes('object')) return `{ use: constant, value: 'TODO: list the members below' }`
  const plain = path.replace(/\[\]/g, '').replace(/.*\./, '')
  const column = {
    name: plain,
    type: 'text',
    family: 'text',
    array: false,
    maxLength: null,
    notNull: false,
    generated: false,
    surrogate: false,
    unique: false,
  } as const
  const { rule } = suggest(column)
  return /use: (date|choice|number)/.test(rule) ? '{ use: text }' : rule
}

interface Reference {
  from: string
  line: string
  /** For a polymorphic reference: the column that determines which table `from` refers to. */
  label?: string
}

/** Finds references without a constraint: the name suggests one, and 90% of the sampled values match. */
async function undeclared(db: Database, tables: readonly MaskTable[]): Promise<Reference[]> {
  const found: Reference[] = []
  for (const table of tables)
    for (const column of table.columns) {
      if (table.foreignKeys.some(({ columns }) => columns.includes(column.name)) || isSafe(table, column)) continue
      const from = `${table.name}.${column.name}`
      if (from.split('.').length > 2) continue
      for (const [parent, name] of candidates(table, column, tables))
        if (await agrees(db, table, column, parent, name)) {
          found.push({ from, line: `{ from: ${key(from)}, to: ${key(`${parent.name}.${name}`)} }` })
          break
        }
      for (const { parent, name, is, type } of await polymorphic(db, table, column, tables))
        found.push({
          from,
          label: `${table.name}.${type}`,
          line: `{ from: ${key(from)}, to: ${key(`${parent.name}.${name}`)}, when: { column: ${key(type)}, is: ${key(is)} } }`,
        })
    }
  return found
}

function candidates(table: MaskTable, column: MaskColumn, tables: readonly MaskTable[]): [MaskTable, string][] {
  const stem = /^(.+?)_?(id|no|ref|key|uuid)$/i.exec(column.name)?.[1]?.toLowerCase()
  const mail = column.family === 'text' && /e_?mail/i.test(column.name)
  return tables.flatMap((parent): [MaskTable, string][] => {
    if (parent === table) return []
    const own = parent.columns.find(({ name }) => parent.key.length === 1 && name === parent.key[0])
    const byName =
      stem &&
      own &&
      own.type === column.type &&
      refersTo(column, parent, own) &&
      singular(parent.name) === singular(stem)
    const unique = parent.columns.filter(
      (each) => mail && each.unique && refersTo(column, parent, each) && /e_?mail/i.test(each.name),
    )
    return [
      ...(byName ? [[parent, own.name] as [MaskTable, string]] : []),
      ...unique.map((each) => [parent, each.name] as [MaskTable, string]),
    ]
  })
}

/** Whether the plan would accept the reference: the parent is kept, or its masked values fit this column. */
function refersTo(column: MaskColumn, parent: MaskTable, own: MaskColumn): boolean {
  if (parent.name.includes('.') || own.name.includes('.')) return false
  if (own.surrogate && parent.key.includes(own.name)) return own.type === column.type || column.family === 'text'
  return meets(column, own) && (own.family === 'text' || own.family === 'uuid' || own.family === 'integer')
}

function singular(name: string): string {
  return name.toLowerCase().replaceAll('_', '').replace(/ies$/, 'y').replace(/s$/, '')
}

async function agrees(
  db: Database,
  table: MaskTable,
  column: MaskColumn,
  parent: MaskTable,
  name: string,
  when = '',
): Promise<boolean> {
  const value = columnOf(column.name)
  const own = parent.columns.find((each) => each.name === name)
  const edge = { asText: own?.type !== column.type, ignoresCase: Boolean(own?.ignoresCase || column.ignoresCase) }
  const { rows } = await db.query(
    `SELECT count(*)::int AS filled, count(*) FILTER (WHERE EXISTS (SELECT FROM ${qualified(parent.schema, parent.name)} p
              WHERE ${compared(edge, `p.${ident(name)}`)} = ${compared(edge, value)}))::int AS met
       FROM (SELECT * FROM ${fromItem(table)} AS t WHERE ${value} IS NOT NULL${when} LIMIT ${SAMPLE}) AS t`,
  )
  return rows[0].filled > 0 && rows[0].met >= rows[0].filled * 0.9
}

/**
 * Finds pairs such as `subject_id` and `subject_type`. Tries labels made from table names, and never reads the existing
 * ones.
 */
async function polymorphic(db: Database, table: MaskTable, column: MaskColumn, tables: readonly MaskTable[]) {
  const stem = /^(.+?)_?id$/i.exec(column.name)?.[1]
  const type = table.columns.find(({ name }) => stem && new RegExp(`^${stem}_?(type|kind)$`, 'i').test(name))
  const found: { parent: MaskTable; name: string; is: string; type: string }[] = []
  if (!type) return found
  for (const parent of tables) {
    const [name] = parent.key
    const own = parent.columns.find((each) => each.name === name)
    if (!name || !own || parent.key.length > 1 || !refersTo(column, parent, own)) continue
    const one = singular(parent.name)
    const labels = [parent.name, one, one[0]?.toUpperCase() + one.slice(1)]
    for (const is of new Set(labels))
      if (await agrees(db, table, column, parent, name, ` AND ${columnOf(type.name)}::text = ${literal(is)}`))
        found.push({ parent, name, is, type: type.name })
  }
  return found
}
