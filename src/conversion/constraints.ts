import type { Constraint } from '../model/catalog.ts'
import { own } from '../model/records.ts'
import { tokens } from '../model/tokens.ts'
import { ident } from '../runtime/database.ts'
import { addCheck, addForeignKey, comment, validateConstraint } from '../sql/ddl.ts'
import { formOf } from '../sql/structure.ts'
import { unquoted } from './expressions.ts'
import { checkName, reportChanges } from './tables.ts'
import { translateIn } from './types.ts'
import type { Work } from './work.ts'

/** Converts checks and foreign keys, for 3-constraints.sql. */
export function convertConstraints(work: Work, tables: ReadonlySet<string>): void {
  for (const constraint of work.catalog.constraints) {
    const object = work.name('constraint', constraint.table, constraint.name)
    if (constraint.schema !== work.schema)
      work.leave(
        'foreign-key.other-schema',
        `constraint ${constraint.schema}.${constraint.table}.${constraint.name}`,
        original(work, constraint),
      )
    else if (!tables.has(constraint.table)) leaveOfPartition(work, constraint, object, tables)
    else if (constraint.kind === 'check') convertCheck(work, constraint, object)
    else if (constraint.kind === 'foreign key') convertForeignKey(work, constraint, object, tables)
    else if (constraint.kind === 'other') work.leave('object.unknown', object, original(work, constraint))
  }
}

/** Leaves a partition's own constraint for manual work. Inherited constraints are converted with the table. */
function leaveOfPartition(work: Work, constraint: Constraint, object: string, tables: ReadonlySet<string>): void {
  const { kind, name, inherited, definition } = constraint
  if (inherited || (kind !== 'check' && kind !== 'foreign key')) return
  const isShared = work.catalog.constraints.some(
    (each) => tables.has(each.table) && each.name === name && each.definition === definition,
  )
  if (!isShared) work.leave('partition.own', object, original(work, constraint))
}

function original(work: Work, { schema, table, name, definition }: Constraint): string {
  const of = schema === work.schema ? work.qualified(table) : `${ident(schema)}.${ident(table)}`
  return `ALTER TABLE ${of} ADD CONSTRAINT ${ident(name)} ${definition}`
}

/**
 * Applies the decision in `convert.yml` about a constraint.
 * @returns its name on the target; undefined if it is dropped
 */
function decidedName(work: Work, { table, name, definition }: Constraint, object: string): string | undefined {
  const decided = own(work.table(table).constraints, name)
  if (decided?.drop !== undefined) {
    work.decided(object, definition, `dropped: ${decided.drop}`)
    work.expect('constraint', table, name, null)
    return undefined
  }
  if (decided?.name) {
    work.decided(object, name, decided.name)
    work.expect('constraint', table, name, { name: decided.name })
  }
  return decided?.name ?? name
}

function write(work: Work, constraint: Constraint, name: string, kind: 'check' | 'foreign-key', sql: string): void {
  const { schema } = work
  const { table, validated } = constraint
  work.result.constraints.push({ sql, deferred: { kind, table, name, validate: validated } })
  if (validated) work.result.constraints.push({ sql: validateConstraint(schema, table, name), deferred: null })
  const text = work
    .comments(constraint.name)
    .find(({ on, name: of, of: on_ }) => on === 'constraint' && of === constraint.name && on_ === table)?.text
  if (text === undefined) return
  work.found('comment.kept', work.name('constraint', table, constraint.name))
  work.result.constraints.push({
    sql: comment(`CONSTRAINT ${ident(name)} ON ${work.qualified(table)}`, text),
    deferred: null,
  })
}

function convertCheck(work: Work, constraint: Constraint, object: string): void {
  const name = decidedName(work, constraint, object)
  if (name === undefined || constraint.expression === null) return
  const decided = own(work.table(constraint.table).constraints, constraint.name)?.check
  const translated = translateIn(work, constraint.table, constraint.expression)
  if (decided) {
    work.decided(object, constraint.expression, decided)
    expectCheck(work, constraint, name, decided)
  } else if (translated.unsupported.length) {
    work.leave('check.unsupported', object, `${original(work, constraint)}; -- ${translated.unsupported.join(', ')}`)
    return
  } else {
    work.found('check.plain', object, constraint.expression, translated.sql)
    reportChanges(work, object, constraint.expression, translated)
  }
  checkName(work, 'constraint', constraint.table, constraint.name)
  if (constraint.noInherit) work.found('check.no-inherit', object, constraint.definition)
  if (!constraint.validated) work.found('check.not-valid', object, constraint.definition)
  write(work, constraint, name, 'check', addCheck(work.schema, constraint.table, name, decided ?? translated.sql))
}

function expectCheck(work: Work, { table, name }: Constraint, newName: string, condition: string): void {
  const text = `CHECK (${condition})`
  const named = new Set(
    tokens(condition).map(({ kind, text: word }) => (kind === 'word' ? word.toLowerCase() : unquoted(word))),
  )
  const columns = work.catalog.tables.find((each) => each.name === table)?.columns.map((each) => each.name) ?? []
  work.expect('constraint', table, name, {
    name: newName,
    columns: columns.filter((each) => named.has(each)).sort(),
    form: formOf(text),
    text,
  })
}

function convertForeignKey(work: Work, constraint: Constraint, object: string, tables: ReadonlySet<string>): void {
  const { references } = constraint
  // PostgreSQL repeats a foreign key to a partitioned table for each partition.
  if (!references || (constraint.inherited && !tables.has(references.table))) return
  if (references.schema !== work.schema) {
    work.leave('foreign-key.other-schema', object, original(work, constraint))
    return
  }
  if (!tables.has(references.table)) {
    work.leave('partition.own', object, original(work, constraint))
    return
  }
  if (references.match === 'partial') {
    work.leave('foreign-key.match-partial', object, original(work, constraint))
    return
  }
  const name = decidedName(work, constraint, object)
  if (name === undefined) return
  checkName(work, 'constraint', constraint.table, constraint.name)
  work.found('foreign-key.plain', object, constraint.definition)
  const onDelete = references.setColumns.length ? 'NO ACTION' : references.onDelete
  if (references.setColumns.length)
    work.found('foreign-key.set-columns', object, constraint.definition, 'ON DELETE NO ACTION')
  if (constraint.deferrable) work.found('constraint.deferrable', object, constraint.definition)
  if (!constraint.validated) work.found('check.not-valid', object, constraint.definition)
  const { schema } = work
  const sql = addForeignKey({
    schema,
    table: constraint.table,
    name,
    columns: constraint.columns,
    references: { schema, table: references.table, columns: references.columns },
    match: references.match,
    onUpdate: references.onUpdate,
    onDelete,
    validated: constraint.validated,
  })
  write(work, constraint, name, 'foreign-key', sql)
}
