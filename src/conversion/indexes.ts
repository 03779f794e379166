import type { Constraint, Index, IndexColumn } from '../model/catalog.ts'
import { readIndex } from '../model/expression.ts'
import { own } from '../model/records.ts'
import { ident } from '../runtime/database.ts'
import { addUnique, comment, createIndex, type IndexDefinition } from '../sql/ddl.ts'
import { checkName, hashOf } from './tables.ts'
import { translateIn } from './types.ts'
import type { Work } from './work.ts'

/** Converts indexes and UNIQUE constraints, but not primary keys, for 2-indexes.sql. */
export function convertIndexes(work: Work, tables: ReadonlySet<string>): void {
  const constraints = new Map(
    work.catalog.constraints
      .filter((each) => each.schema === work.schema)
      .map((each) => [`${each.table}.${each.name}`, each]),
  )
  for (const index of work.catalog.indexes) {
    if (index.isPartition) continue
    const constraint = index.constraint === null ? undefined : constraints.get(`${index.table}.${index.constraint}`)
    if (!tables.has(index.table)) {
      work.leave('partition.own', work.name('index', index.table, index.name), index.definition)
      continue
    }
    if (constraint?.kind === 'primary key') continue
    const { drop } = decisionOf(work, index, constraint)
    if (drop !== undefined) leaveOut(work, index, constraint, drop)
    else if (constraint?.kind === 'exclude')
      work.leave(
        'constraint.exclude',
        work.name('constraint', index.table, index.name),
        alter(work, index.table, constraint),
      )
    else convertIndex(work, index, constraint)
  }
}

function alter(work: Work, table: string, { name, definition }: Constraint): string {
  return `ALTER TABLE ${work.qualified(table)} ADD CONSTRAINT ${ident(name)} ${definition}`
}

/** The decision about an index. For a UNIQUE constraint, convert.yml can list it under `indexes` or `constraints`. */
function decisionOf(work: Work, { table, name }: Index, constraint: Constraint | undefined) {
  const { indexes, constraints } = work.table(table)
  return { ...own(indexes, name), ...(constraint && own(constraints, name)) }
}

function leaveOut(
  work: Work,
  { table, name, definition }: Index,
  constraint: Constraint | undefined,
  why: string,
): void {
  const object = work.name(constraint ? 'constraint' : 'index', table, name)
  work.found('index.dropped', object, definition, `dropped: ${why}`)
  work.expect('index', table, name, null)
}

function convertIndex(work: Work, index: Index, constraint: Constraint | undefined): void {
  const { table } = index
  const object = work.name(constraint ? 'constraint' : 'index', table, index.name)
  const decided = decisionOf(work, index, constraint)
  const name = decided.name ?? index.name
  const write = (sql: string, unique = index.unique) => {
    const kind = unique ? 'unique' : 'index'
    work.result.indexes.push({ sql, deferred: { kind, table, name, validate: false } })
    writeComment(work, index, name, constraint)
  }
  if (decided.sql) {
    work.decided(object, index.definition, decided.sql)
    expectIndex(work, index, name, decided.sql)
    write(decided.sql, readIndex(decided.sql)?.unique)
    return
  }
  if (!index.valid) {
    work.leave('index.invalid', object, index.definition)
    return
  }
  const definition = define(work, index, object)
  if (!definition) return
  const isDecided = decided.name || decided.hash || decided.storing
  if (isDecided) work.decided(object, index.definition, `${name}${decided.hash ? ' USING HASH' : ''}`)
  const final = { ...definition, name, storing: decided.storing ?? definition.storing, hash: hashOf(decided.hash) }
  if (isDecided) expectIndex(work, index, name, createIndex(final))
  checkName(work, constraint ? 'constraint' : 'index', table, index.name)
  const isPlain = index.columns.every((each) => each.column !== null) && !final.hash
  if (constraint && isPlain) write(addUnique(work.schema, table, name, constraint.columns, final.storing))
  else write(createIndex(final))
  if (constraint?.deferrable) work.found('constraint.deferrable', object, constraint.definition)
}

/**
 * Records the index that a later comparison must expect. Skips a statement that cannot be parsed; the comparison then
 * reports a difference.
 */
function expectIndex(work: Work, index: Index, name: string, sql: string): void {
  const found = readIndex(sql)
  if (!found) return
  const { unique, columns, form } = found
  work.expect('index', index.table, index.name, { name, unique, columns, form, text: sql })
}

/** Builds the target's index and reports the rules that apply; undefined if the index needs manual work. */
function define(work: Work, index: Index, object: string): IndexDefinition | undefined {
  const method = methodOf(work, index, object)
  if (!method) return undefined
  const columns = index.columns.map((column) => columnOf(work, index.table, column, method))
  const where = index.predicate === null ? null : translateIn(work, index.table, index.predicate)
  const unsupported = [...columns.flatMap((each) => each.unsupported), ...(where?.unsupported ?? [])]
  if (unsupported.length) {
    work.leave('index.unsupported', object, `${index.definition}; -- ${unsupported.join(', ')}`)
    return undefined
  }
  reportParts(work, index, object, method)
  const changes = [...columns.flatMap((each) => each.changes), ...(where?.changes ?? [])]
  if (changes.includes('division')) work.found('expression.division', object, index.definition)
  return {
    schema: work.schema,
    table: index.table,
    name: index.name,
    unique: index.unique,
    method,
    columns: columns.map((each) => each.sql),
    storing: index.include,
    where: where?.sql ?? null,
    hash: null,
  }
}

type Method = IndexDefinition['method']

const TEXT_SEARCH = /^(tsvector_ops|gist_trgm_ops|gist_geometry_ops_2d|gist_geography_ops)$/
const GIN_PARTS =
  /^(jsonb_ops|jsonb_path_ops|array_ops|tsvector_ops|gin_trgm_ops|gist_trgm_ops|gist_geometry_ops_2d|gist_geography_ops)$/

function methodOf(work: Work, index: Index, object: string): Method | undefined {
  const leave = (rule: string) => {
    work.leave(rule, object, index.definition)
    return undefined
  }
  switch (index.method) {
    case 'btree':
      return 'btree'
    case 'hash':
      work.found('index.hash', object, index.definition)
      return 'btree'
    case 'brin':
      if (work.decisions.rules?.['index.brin'] === 'btree') {
        work.decided(object, index.definition, 'a B-tree index')
        return 'btree'
      }
      if (work.decisions.rules?.['index.brin'] === 'drop') work.expect('index', index.table, index.name, null)
      return leave('index.brin')
    case 'gin':
      return isInverted(index) ? reported(work, 'index.gin', object, index) : leave('index.gin-unsupported')
    case 'gist': {
      const fits = isInverted(index) && index.columns.every((each) => TEXT_SEARCH.test(each.opclass ?? ''))
      return fits ? reported(work, 'index.gist', object, index) : leave('index.gist-unsupported')
    }
    case 'hnsw':
    case 'ivfflat':
      if (!work.has([25, 2])) return leave('index.vector')
      work.found('index.vector', object, index.definition)
      return 'vector'
    default:
      return leave(index.method === 'spgist' ? 'index.gist-unsupported' : 'object.unknown')
  }
}

function reported(work: Work, rule: string, object: string, index: Index): Method {
  work.found(rule, object, index.definition)
  return 'inverted'
}

/**
 * Whether an inverted index can replace this index. In CockroachDB, only the last column can be inverted, and STORING
 * is not supported.
 */
function isInverted({ columns, include }: Index): boolean {
  const inverted = columns.map((each) => GIN_PARTS.test(each.opclass ?? ''))
  return !include.length && inverted.at(-1) === true && inverted.slice(0, -1).every((each) => !each)
}

function columnOf(work: Work, table: string, column: IndexColumn, method: Method) {
  const translated = column.column === null ? translateIn(work, table, column.expression) : undefined
  const name = column.column === null ? `(${stripped(translated?.sql ?? '')})` : ident(column.column)
  const trigrams = method === 'inverted' && /trgm_ops$/.test(column.opclass ?? '') ? ` ${column.opclass}` : ''
  const distance =
    method === 'vector' && /^vector_(l2|cosine|ip)_ops$/.test(column.opclass ?? '') ? ` ${column.opclass}` : ''
  const order = method === 'btree' && column.descending ? ' DESC' : ''
  return {
    sql: `${name}${trigrams}${distance}${order}`,
    unsupported: translated?.unsupported ?? [],
    changes: translated?.changes ?? [],
  }
}

/** Removes parentheses around the whole expression, because the index adds its own. */
function stripped(expression: string): string {
  if (!expression.startsWith('(')) return expression
  let depth = 0
  for (let at = 0; at < expression.length; at++) {
    if (expression[at] === '(') depth++
    if (expression[at] === ')' && --depth === 0)
      return at === expression.length - 1 ? stripped(expression.slice(1, -1)) : expression
  }
  return expression
}

/**
 * Whether the target's index loses the operator class. Returns false for BRIN: its operator classes have no equivalent
 * in a B-tree index.
 */
function losesOpclass(method: string, opclass: string): boolean {
  if (method === 'btree' || method === 'hash') return true
  return /^g/.test(method) && !/^((jsonb|array|tsvector|gin_trgm|gist_trgm)_ops|gist_geo\w+)$/.test(opclass)
}

function reportParts(work: Work, index: Index, object: string, method: Method): void {
  const found = (rule: string) => work.found(rule, object, index.definition)
  if (method === 'btree' && index.columns.every((each) => each.column !== null))
    found(index.unique ? 'unique.plain' : 'index.plain')
  if (index.columns.some((each) => each.column === null)) found('index.expression')
  if (index.predicate !== null) found('index.partial')
  if (index.include.length) found('index.include')
  if (index.nullsNotDistinct) found('unique.nulls-not-distinct')
  // PostgreSQL's default is NULLS LAST for ASC, and NULLS FIRST for DESC.
  if (method === 'btree' && index.columns.some((each) => each.descending || each.nullsFirst)) found('index.null-order')
  if (index.columns.some(({ opclass }) => opclass && losesOpclass(index.method, opclass))) found('index.opclass')
  if (index.columns.some((each) => each.collation && each.column !== null)) found('index.collation')
  if (index.options.length) work.found('storage.parameters', object, index.options.join(', '))
}

function writeComment(work: Work, index: Index, name: string, constraint: Constraint | undefined): void {
  const text = work
    .comments(index.name)
    .find(
      ({ on, name: of, of: table }) =>
        (on === 'index' || on === 'constraint') && of === index.name && table === index.table,
    )?.text
  if (text === undefined) return
  work.found('comment.kept', work.name('index', index.table, index.name))
  const target = constraint
    ? `CONSTRAINT ${ident(name)} ON ${work.qualified(index.table)}`
    : `INDEX ${work.qualified(index.table)}@${ident(name)}`
  work.result.indexes.push({ sql: comment(target, text), deferred: null })
}
