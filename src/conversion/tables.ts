import type { Column, Sequence, Table, Type, TypeName } from '../model/catalog.ts'
import { localeOf } from '../model/collation.ts'
import { own } from '../model/records.ts'
import { typeForm } from '../model/structure.ts'
import { ident, qualified } from '../runtime/database.ts'
import {
  type ColumnDefinition,
  comment,
  createEnum,
  createSequence,
  createTable,
  type HashSharding,
  ownSequence,
  sequenceOptions,
} from '../sql/ddl.ts'
import { collationForm, defaultForm, formOf } from '../sql/structure.ts'
import { type Translation, UNQUOTED_RESERVED, withColumn } from './expressions.ts'
import { chooseType, collationOf, domainsOf, translateIn } from './types.ts'
import type { Work } from './work.ts'

const add = (work: Work, sql: string) => work.result.tables.push({ sql, deferred: null })

/** Converts types, sequences and tables, for 1-tables.sql. */
export function convertTables(work: Work): void {
  const tables = work.catalog.tables.filter((table) => isCreated(work, table))
  if (work.schema !== 'public') add(work, `CREATE SCHEMA IF NOT EXISTS ${ident(work.schema)}`)
  keepComment(work, 'schema', work.schema, `SCHEMA ${ident(work.schema)}`)
  convertTypes(work, tables)
  const names = new Set(tables.map((each) => each.name))
  const sequences = neededSequences(work, tables)
  const identities = work.catalog.sequences.filter((each) => each.identity)
  work.sequences = new Set([...sequences, ...identities].map((each) => each.name))
  for (const sequence of sequences) convertSequence(work, sequence)
  for (const table of tables) convertTable(work, table)
  for (const { name, table, column, identity } of sequences)
    if (!identity && table && column && names.has(table)) add(work, ownSequence(work.schema, name, table, column))
}

/**
 * Whether this table is created on the target. Partitions become part of their parent table, and foreign tables are
 * left for manual work.
 */
function isCreated(work: Work, table: Table): boolean {
  if (table.kind === 'foreign')
    work.leave('table.foreign', work.name('table', table.name), `CREATE FOREIGN TABLE ${work.qualified(table.name)}`)
  return table.kind !== 'foreign' && !table.isPartition
}

function convertTypes(work: Work, tables: readonly Table[]): void {
  const used = usedTypes(work, tables)
  for (const type of work.catalog.types) {
    const isOurs = type.schema === work.schema
    if (!isOurs && !used.has(`${type.schema}.${type.name}`)) continue
    if (type.kind === 'enum') {
      const sql = createEnum(work.schema, work.enumName(type), type.labels)
      add(work, sql)
      work.found('type.enum', `type ${type.schema}.${type.name}`, type.definition, sql)
      if (isOurs) keepComment(work, 'type', type.name, `TYPE ${qualified(work.schema, type.name)}`)
      checkName(work, 'type', type.name)
    } else if (isOurs) leaveType(work, type)
  }
}

/** Types of all columns, and base types of their domains. */
function usedTypes(work: Work, tables: readonly Table[]): Set<string> {
  const used = new Set<string>()
  const use = (type: TypeName) => {
    used.add(`${type.schema}.${type.name}`)
    const base = work.typeOf(type)?.base
    if (base) use(base)
  }
  for (const { columns } of tables) for (const { type } of columns) use(type)
  return used
}

function keepComment(work: Work, on: 'schema' | 'type', name: string, object: string): void {
  const found = work.comments(name).find((each) => each.on === on)
  if (!found) return
  work.found('comment.kept', on === 'schema' ? `schema ${name}` : work.name(on, name))
  add(work, comment(object, found.text))
}

function leaveType(work: Work, type: Type): void {
  const object = work.name('type', type.name)
  if (type.kind === 'domain')
    work.found('type.domain', object, type.definition, type.base && chooseType(work, type.base).type)
  else work.leave('type.user-defined', object, type.definition)
}

/**
 * Sequences to create. Leaves out those of identity columns, which create their own, and of columns that no longer use
 * a sequence on the target.
 */
function neededSequences(work: Work, tables: readonly Table[]): Sequence[] {
  const byName = new Map(tables.map((each) => [each.name, each]))
  return work.catalog.sequences.filter((sequence) => {
    if (sequence.identity) return false
    const table = byName.get(sequence.table ?? '')
    const column = table?.columns.find((each) => each.name === sequence.column)
    return !(table && column && numbering(work, table, column) !== 'sequence')
  })
}

function convertSequence(work: Work, sequence: Sequence): void {
  const sql = createSequence(work.schema, sequence)
  const object = work.name('sequence', sequence.name)
  add(work, sql)
  if (sequence.cycle) work.found('sequence.cycle', object, 'CYCLE', 'NO CYCLE')
  else if (sequence.type !== 'bigint')
    work.found('sequence.small', object, `AS ${sequence.type}`, `MINVALUE ${sequence.min} MAXVALUE ${sequence.max}`)
  else work.found('sequence.plain', object)
  checkName(work, 'sequence', sequence.name)
}

function convertTable(work: Work, table: Table): void {
  const object = work.name('table', table.name)
  const checks: { name: string; condition: string }[] = []
  const columns = table.columns.map((column) => convertColumn(work, table, column, checks))
  const key = keyOf(work, table, columns)
  add(work, createTable({ schema: work.schema, name: table.name, columns, key, checks }))
  work.found('table.plain', object)
  if (!key) work.found('key.none', object)
  reportTable(work, table)
  for (const text of commentsOf(work, table)) add(work, text)
}

function reportTable(work: Work, table: Table): void {
  const object = work.name('table', table.name)
  checkName(work, 'table', table.name)
  const parts = table.partitionKey
    ? work.catalog.tables.filter((each) => each.isPartition && isBelow(work, each, table))
    : []
  if (table.partitionKey)
    work.found('table.partitioned', object, `PARTITION BY ${table.partitionKey}, ${parts.length} partitions`)
  else if (table.parents.length) work.found('table.inheritance', object, `INHERITS (${table.parents.join(', ')})`)
  if (table.unlogged) work.found('table.unlogged', object)
  if (table.ofType) work.found('table.typed', object, `OF ${table.ofType}`)
  if (table.rowSecurity) work.found('table.row-security', object)
  const settings = [
    ...table.options,
    ...table.settings,
    ...table.columns.flatMap((column) => column.settings.map((each) => `${column.name} ${each}`)),
  ]
  if (settings.length) work.found('storage.parameters', object, settings.join(', '))
}

function isBelow(work: Work, partition: Table, table: Table): boolean {
  const name = qualified(work.schema, table.name).replaceAll('"', '')
  return partition.parents.some((parent) => {
    if (parent.replaceAll('"', '') === name) return true
    const above = work.catalog.tables.find(
      (each) => each.isPartition && `${work.schema}.${each.name}` === parent.replaceAll('"', ''),
    )
    return above !== undefined && isBelow(work, above, table)
  })
}

function convertColumn(
  work: Work,
  table: Table,
  column: Column,
  checks: { name: string; condition: string }[],
): ColumnDefinition {
  const object = work.name('column', table.name, column.name)
  const decided = own(work.table(table.name).columns, column.name) ?? {}
  const chosen = decided.type
    ? { type: decided.type, rule: 'override' }
    : chooseType(work, column.type, column.dimensions)
  work.found(chosen.rule, object, column.type.text, chosen.type)
  if (chosen.rule === 'override')
    work.expect('type', table.name, column.name, { form: typeForm(chosen.type), text: chosen.type })
  checkName(work, 'column', table.name, column.name)
  const domains = domainsOf(work, column)
  for (const [at, domain] of domains.entries()) checks.push(...domainChecks(work, table, column, domain, at))
  if (column.type.array) leaveElementChecks(work, table, column)
  const numbered = numbering(work, table, column)
  return {
    name: column.name,
    type: numbered === 'uuid' && !decided.type ? 'UUID' : chosen.type,
    collation: convertCollation(work, table, column, decided.collation),
    notNull: column.notNull || domains.some((each) => each.notNull),
    default: column.generated ? null : defaultOf(work, table, column, numbered),
    generated: generatedOf(work, table, column, decided.generated),
    identity: numbered === 'sequence' && decided.default === undefined ? identityOf(work, table, column) : null,
  }
}

function domainChecks(work: Work, table: Table, column: Column, domain: Type, depth: number) {
  return domain.checks.flatMap(({ name, expression }) => {
    const translated = translateIn(work, table.name, withColumn(expression, column.name))
    const object = work.name('constraint', table.name, `${column.name}_${name}`)
    if (translated.unsupported.length) {
      work.leave(
        'check.unsupported',
        object,
        `CHECK (${expression}) -- of the domain ${domain.name}: ${translated.unsupported.join(', ')}`,
      )
      return []
    }
    work.found('type.domain', object, `CHECK (${expression}) of the domain ${domain.name}`, `CHECK (${translated.sql})`)
    return [{ name: `${column.name}_${name}${depth ? `_${depth}` : ''}`, condition: translated.sql }]
  })
}

/** Leaves a domain's checks for manual work if the column is an array of the domain. */
function leaveElementChecks(work: Work, table: Table, column: Column): void {
  const domain = work.typeOf(column.type)
  if (domain?.kind !== 'domain') return
  for (const { name, expression } of domain.checks)
    work.leave(
      'check.unsupported',
      work.name('constraint', table.name, `${column.name}_${name}`),
      `CHECK (${expression}) -- of the domain ${domain.name}, for each element`,
    )
}

/** Records that a later comparison must expect what convert.yml decides about one part of a column. */
function expectPart(
  work: Work,
  table: Table,
  { name }: Column,
  part: 'collation' | 'default' | 'generated value',
  sql: string | null,
  formOfPart: (sql: string) => string,
): void {
  work.expect(part, table.name, name, sql === null ? null : { form: formOfPart(sql), text: sql })
}

function convertCollation(work: Work, table: Table, column: Column, decided: string | undefined): string | null {
  const object = work.name('column', table.name, column.name)
  const collation = collationOf(work, column)
  if (decided !== undefined) {
    work.decided(object, collation?.name ?? null, decided || 'no collation')
    expectPart(work, table, column, 'collation', decided || null, collationForm)
    return decided ? ident(decided) : null
  }
  if (!collation) return null
  const locale = localeOf(collation)
  if (locale === undefined) work.found('type.collation-nondeterministic', object, `COLLATE "${collation.name}"`)
  else work.found('type.collation', object, `COLLATE "${collation.name}"`, locale && `COLLATE ${ident(locale)}`)
  return locale ? ident(locale) : null
}

type Numbering = 'sequence' | 'unique-rowid' | 'uuid'

/** How the target generates values for a serial column. Also returns `sequence` for columns without a sequence. */
function numbering(work: Work, table: Table, column: Column): Numbering {
  const decided = own(work.table(table.name).columns, column.name)?.serial
  if (decided) return decided
  const isFed = sequenceOf(work, table, column) !== undefined
  return isFed && column.type.name === 'int8' && work.decisions.rules?.['key.serial'] === 'unique-rowid'
    ? 'unique-rowid'
    : 'sequence'
}

function sequenceOf(work: Work, table: Table, column: Column): Sequence | undefined {
  return work.sequence(table.name, column.name)
}

function identityOf(work: Work, table: Table, column: Column): ColumnDefinition['identity'] {
  if (!column.identity) return null
  const sequence = sequenceOf(work, table, column)
  const object = work.name('column', table.name, column.name)
  work.found(
    column.identity === 'always' ? 'key.identity-always' : 'key.identity',
    object,
    `GENERATED ${column.identity.toUpperCase()} AS IDENTITY`,
    'GENERATED BY DEFAULT AS IDENTITY',
  )
  if (sequence?.cycle) work.found('sequence.cycle', work.name('sequence', sequence.name), 'CYCLE', 'NO CYCLE')
  return { kind: 'by default', options: sequence ? sequenceOptions(sequence) : '' }
}

const NUMBERED: Record<Exclude<Numbering, 'sequence'>, string> = {
  'unique-rowid': 'unique_rowid()',
  uuid: 'gen_random_uuid()',
}

function defaultOf(work: Work, table: Table, column: Column, numbered: Numbering): string | null {
  const object = work.name('column', table.name, column.name)
  const decided = own(work.table(table.name).columns, column.name)?.default
  const given = column.expression ?? domainsOf(work, column).find((each) => each.default !== null)?.default ?? null
  if (decided !== undefined) {
    work.decided(object, given, decided)
    expectPart(work, table, column, 'default', decided, defaultForm)
    return decided
  }
  if (numbered !== 'sequence') {
    work.decided(object, given ?? 'IDENTITY', NUMBERED[numbered])
    expectPart(work, table, column, 'default', NUMBERED[numbered], defaultForm)
    return NUMBERED[numbered]
  }
  if (given === null) return null
  if (/^nextval\(/.test(given) && sequenceOf(work, table, column)) work.found('key.serial', object, given)
  const translated = translateIn(work, table.name, given)
  if (translated.unsupported.length) {
    work.leave(
      'default.unsupported',
      object,
      `ALTER TABLE ${work.qualified(table.name)} ALTER COLUMN ${ident(column.name)} SET DEFAULT ${given}; -- ${translated.unsupported.join(', ')}`,
    )
    return null
  }
  reportChanges(work, object, given, translated)
  return translated.sql
}

/** Reports what the translation of an expression changed. */
export function reportChanges(
  work: Work,
  object: string,
  from: string,
  { sql, changes }: Pick<Translation, 'sql' | 'changes'>,
): void {
  if (changes.includes('division')) work.found('expression.division', object, from, sql)
  if (changes.includes('operator') || changes.includes('function')) work.found('default.adapted', object, from, sql)
}

function generatedOf(work: Work, table: Table, column: Column, decided: string | null | undefined) {
  if (!column.generated || column.expression === null) return null
  const object = work.name('column', table.name, column.name)
  const kind = column.generated
  if (decided !== undefined) {
    work.decided(object, column.expression, decided ?? 'a plain column')
    expectPart(work, table, column, 'generated value', decided, formOf)
    return decided === null ? null : { expression: decided, kind }
  }
  const translated = translateIn(work, table.name, column.expression)
  if (translated.unsupported.length) {
    work.leave(
      'generated.unsupported',
      object,
      `GENERATED ALWAYS AS (${column.expression}) -- ${translated.unsupported.join(', ')}`,
    )
    return null
  }
  work.found('generated.stored', object, column.expression, translated.sql)
  reportChanges(work, object, column.expression, translated)
  return { expression: translated.sql, kind }
}

function keyOf(work: Work, table: Table, columns: readonly ColumnDefinition[]) {
  const object = work.name('table', table.name)
  const decided = work.table(table.name)
  const there = work.key(table.name)
  if (decided.key)
    work.decided(
      object,
      there ? `PRIMARY KEY (${there.columns.join(', ')})` : 'no primary key',
      `PRIMARY KEY (${decided.key.join(', ')})`,
    )
  const names = decided.key ?? there?.columns
  if (!names) return null
  const grows = isGrowing(
    work,
    table,
    columns.find((each) => each.name === names[0]),
  )
  const hash = hashOf(decided.hash ?? (grows && work.decisions.rules?.['key.hotspot'] === 'hash'))
  const key = { name: there?.name ?? `${table.name}_pkey`, columns: names, hash }
  if (hash)
    work.found('key.hash', object, `PRIMARY KEY (${names.join(', ')})`, `PRIMARY KEY (${names.join(', ')}) USING HASH`)
  else if (grows) work.found('key.hotspot', object, `PRIMARY KEY (${names.join(', ')})`)
  if (there?.deferrable)
    work.found('constraint.deferrable', work.name('constraint', table.name, there.name), there.definition)
  return key
}

export function hashOf(decided: boolean | number | undefined): HashSharding | null {
  return decided ? { buckets: decided === true ? null : decided } : null
}

/**
 * Whether the values of a key's first column keep increasing: it is filled from a sequence, or defaults to the current
 * time.
 */
function isGrowing(work: Work, table: Table, column: ColumnDefinition | undefined): boolean {
  if (!column) return false
  if (
    column.identity !== null ||
    sequenceOf(work, table, table.columns.find((each) => each.name === column.name) as Column)
  )
    return column.type !== 'UUID'
  return /^TIMESTAMP/.test(column.type) && /now\(\)|CURRENT_TIMESTAMP|_timestamp\(\)/i.test(column.default ?? '')
}

function commentsOf(work: Work, table: Table): string[] {
  const { name: key } = work.key(table.name) ?? {}
  const own = work.comments(key ?? '').find(({ on, of }) => on === 'constraint' && of === table.name)
  if (own) work.found('comment.kept', work.name('constraint', table.name, own.name))
  const ofKey = own ? [comment(`CONSTRAINT ${ident(own.name)} ON ${work.qualified(table.name)}`, own.text)] : []
  const others = work.comments(table.name).flatMap(({ on, name, of, text }) => {
    if (on !== 'table' && on !== 'column') return []
    work.found('comment.kept', on === 'table' ? work.name('table', name) : work.name('column', name, of as string))
    return comment(
      on === 'table' ? `TABLE ${work.qualified(name)}` : `COLUMN ${work.qualified(name)}.${ident(of as string)}`,
      text,
    )
  })
  return [...others, ...ofKey]
}

/** Column names that are reserved in CockroachDB's grammar (reserved_keyword) but allowed in PostgreSQL. */
const RESERVED = new Set([...UNQUOTED_RESERVED, 'none'])

/** Reports names that need care in the application. The conversion keeps every name. */
export function checkName(work: Work, kind: string, ...parts: string[]): void {
  const name = parts.at(-1) as string
  const object = work.name(kind, ...parts)
  // PostgreSQL truncates at character boundaries, so a truncated name with multibyte characters can be up to three
  // bytes shorter. Such names are not reported.
  if (Buffer.byteLength(name) === 63) work.found('name.long', object)
  if (RESERVED.has(name)) work.found('name.reserved', object)
  if (name !== name.toLowerCase()) work.found('name.mixed-case', object)
}
