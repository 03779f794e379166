import { own } from '../model/records.ts'
import { type Database, ident, literal, qualified } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import { columnOf, fromItem, type MaskTable } from './catalog.ts'
import { compared, type Edge, type Plan } from './decisions.ts'
import { Hashes } from './hashes.ts'
import type { Rules } from './rules.ts'

type Subset = NonNullable<Rules['subset']>

/**
 * Predicates for the rows to copy: the table's own predicate, and for every reference to a restricted table, that the
 * referenced row is copied too. Ignores cycles and self-references, which {@link close} resolves on the rehearsal source.
 * @returns predicates over `t`, for tables with one
 */
export function subsetPredicates(plan: Plan, subset: Subset): Map<string, string> {
  const tables = new Map(plan.tables.map(({ table }) => [table.name, table]))
  const seeds = Object.keys(subset).filter((name) => tables.has(name))
  const restricted = restrictedTables(plan.edges, seeds)
  const hashes = new Hashes(plan.domains)
  const ownOf = new Map(
    [...restricted].map((name) => [
      name,
      ownPredicates(tables.get(name) as MaskTable, own(subset, name), hashes, plan),
    ]),
  )
  const queryName = new Map([...restricted].map((name, at) => [name, `taken${at}`]))
  const edgesOf = (name: string) =>
    plan.edges.filter(({ from, to }) => from === name && to !== name && restricted.has(to))
  const taken = (name: string, columns: readonly string[], edges: readonly Edge[]) =>
    takenRows(tables.get(name) as MaskTable, columns, ownOf.get(name) as string[], edges, queryName)
  const predicate = (name: string): string => {
    if (!edgesOf(name).length) return (ownOf.get(name) as string[]).join(' AND ')
    // One query per parent table, even if several paths lead to it. It follows the queries of the tables that it refers
    // to.
    const queries = new Map<string, string>()
    const open = new Set([name])
    const add = (above: string) => {
      if (open.has(above) || queries.has(above)) return
      open.add(above)
      for (const edge of edgesOf(above)) add(edge.to)
      open.delete(above)
      const edges = edgesOf(above).filter(({ to }) => queries.has(to))
      queries.set(above, `${queryName.get(above)} AS (${taken(above, referredColumns(plan.edges, above), edges)})`)
    }
    for (const edge of edgesOf(name)) add(edge.to)
    const table = tables.get(name) as MaskTable
    return `${rowOf(table)} IN (WITH ${[...queries.values()].join(', ')} ${taken(name, rowColumns(table), edgesOf(name))})`
  }
  return new Map([...restricted].map((name) => [name, predicate(name)] as const).filter(([, where]) => where))
}

function referredColumns(edges: readonly Edge[], name: string): string[] {
  return [...new Set(edges.filter(({ to }) => to === name).flatMap(({ toColumns }) => toColumns))]
}

/** SELECT of a table's rows in the subset. Uses joins, because a subquery in the predicate would run for each row. */
function takenRows(
  table: MaskTable,
  columns: readonly string[],
  own: readonly string[],
  edges: readonly Edge[],
  queryName: ReadonlyMap<string, string>,
): string {
  const joins = edges.map((edge, at) => {
    const keys = edge.toColumns.map((name, key) => `${compared(edge, ident(name))} AS "molt k${key}"`)
    const meets = edge.columns.map((name, key) => `p${at}."molt k${key}" = ${compared(edge, columnOf(name))}`)
    // A foreign key matches one row. An undeclared reference can match several.
    const distinct = edge.constraint ? '' : 'DISTINCT '
    return ` LEFT JOIN (SELECT ${distinct}${keys.join(', ')} FROM ${queryName.get(edge.to)}) p${at} ON ${meets.join(' AND ')}`
  })
  const met = edges.map((edge, at) => {
    const absent = [...edge.columns.map((name) => `${columnOf(name)} IS NULL`), ...unless(edge)]
    return `(${absent.join(' OR ')} OR p${at}."molt k0" IS NOT NULL)`
  })
  const where = [...own, ...met]
  return `SELECT ${columns.map(columnOf).join(', ')} FROM ${fromItem(table)} AS t${joins.join('')}${where.length ? ` WHERE ${where.join(' AND ')}` : ''}`
}

/** The tables with a predicate, and all that refer to them, directly or indirectly. */
function restrictedTables(edges: readonly Edge[], seeds: readonly string[]): Set<string> {
  const found = new Set(seeds)
  for (let before = -1; before !== found.size; ) {
    before = found.size
    for (const edge of edges) if (found.has(edge.to)) found.add(edge.from)
  }
  return found
}

function ownPredicates(table: MaskTable, own: Subset[string] | undefined, hashes: Hashes, plan: Plan): string[] {
  const parts: string[] = []
  if (own?.where) {
    parts.push(`(${own.where})`)
    // Reports an invalid predicate before an earlier copy is dropped.
    const sql = `SELECT 0 AS count FROM ${fromItem(table)} AS t WHERE ${own.where} LIMIT 1`
    plan.checks.push({
      column: `subset.${table.name}`,
      sql: `SELECT coalesce(max(count), 0) AS count FROM (${sql}) s`,
      problem: () => '',
    })
  }
  if (own?.percent !== undefined) {
    if (!table.key.length)
      plan.problems.push(`subset: ${table.name} has no primary key, which \`percent\` needs. Use \`where\``)
    else {
      const hash = hashes.lightRow(`${table.name} subset`, table)
      parts.push(`abs(${hash} % 1000000) < ${Math.round(own.percent * 10_000)}`)
    }
  }
  return parts
}

function unless({ when }: Edge): string[] {
  return when ? [`${columnOf(when.column)}::text IS DISTINCT FROM ${literal(when.is)}`] : []
}

/**
 * Rows of `edge.from` that refer to a missing row, as a predicate over `t`.
 * @param parents FROM item for `edge.to`; by default the table and those that inherit from it
 */
export function dangling(edge: Edge, schema: string, parents = qualified(schema, edge.to)): string {
  const meets = edge.columns.map(
    (name, at) => `${compared(edge, `p.${ident(edge.toColumns[at] as string)}`)} = ${compared(edge, columnOf(name))}`,
  )
  return [...points(edge), `NOT EXISTS (SELECT FROM ${parents} p WHERE ${meets.join(' AND ')})`].join(' AND ')
}

/** SQL conditions under which a row `t` has this reference. */
function points({ columns, when }: Edge): string[] {
  return [
    ...columns.map((name) => `${columnOf(name)} IS NOT NULL`),
    ...(when ? [`${columnOf(when.column)}::text = ${literal(when.is)}`] : []),
  ]
}

/**
 * Removes rows that refer to a row that was not copied, until no such row is left. A predicate cannot express cycles.
 * @returns number of removed rows by table
 */
export async function close(target: Database, plan: Plan): Promise<Map<string, number>> {
  const tables = new Map(plan.tables.map(({ table }) => [table.name, table]))
  const gone = new Map<string, number>()
  const chains = new Set<Edge>()
  for (const edge of plan.edges)
    if (edge.from === edge.to && (await meetsOne(target, edge, tables.get(edge.to) as MaskTable))) chains.add(edge)
  for (let changed = true; changed; ) {
    changed = false
    for (const edge of plan.edges) {
      const table = tables.get(edge.from) as MaskTable
      const orphans = dangling(edge, plan.schema, fromItem(tables.get(edge.to) as MaskTable))
      const where = chains.has(edge) ? withDescendants(edge, table, orphans) : orphans
      const { rowCount } = await target.query(`DELETE FROM ${fromItem(table)} AS t WHERE ${where}`)
      if (!rowCount) continue
      changed = true
      gone.set(edge.from, (gone.get(edge.from) ?? 0) + rowCount)
    }
  }
  return gone
}

/**
 * Whether every row has at most one parent. With an undeclared reference, a row can have several parents, and any of
 * them keeps the row.
 */
async function meetsOne(target: Database, edge: Edge, table: MaskTable): Promise<boolean> {
  if (edge.constraint) return true
  const keys = parentKeys(edge).join(', ')
  const { rows } = await target.query(
    `SELECT FROM ${fromItem(table)} AS t WHERE num_nulls(${keys}) = 0 GROUP BY ${keys} HAVING count(*) > 1 LIMIT 1`,
  )
  return rows.length === 0
}

function parentKeys(edge: Edge): string[] {
  return edge.toColumns.map((name) => compared(edge, columnOf(name)))
}

/** For a self-reference: the orphans and all their descendants. Otherwise, a chain would take one round per row. */
function withDescendants(edge: Edge, table: MaskTable, orphans: string): string {
  const item = `${fromItem(table)} AS t`
  const columns = [...rowColumns(table).map(columnOf), ...parentKeys(edge)]
  const names = columns.map((_, at) => `c${at}`)
  const keys = names.slice(-edge.toColumns.length)
  const meets = edge.columns.map((name, at) => `${compared(edge, columnOf(name))} = gone.${keys[at]}`)
  const gone = names.slice(0, -keys.length).join(', ')
  // A row has one parent, so it is visited once.
  return `${rowOf(table)} IN (WITH RECURSIVE gone(${names.join(', ')}) AS (SELECT ${columns.join(', ')} FROM ${item} WHERE ${orphans}
    UNION ALL SELECT ${columns.join(', ')} FROM gone JOIN ${item} ON ${[...meets, ...points(edge)].join(' AND ')}) SELECT ${gone} FROM gone)`
}

/** Columns that identify a row within one statement. */
function rowColumns({ partitioned }: MaskTable): string[] {
  return partitioned ? ['tableoid', 'ctid'] : ['ctid']
}

function rowOf(table: MaskTable): string {
  return `(${rowColumns(table).map(columnOf).join(', ')})`
}

/**
 * Warnings about tables that lost more than half of their rows, which is rarely intended.
 * @param taken number of rows that the predicates selected, by table
 * @param gone the result of {@link close}
 * @returns one sentence per table
 */
export function lostMost(taken: ReadonlyMap<string, number>, gone: ReadonlyMap<string, number>): string[] {
  return [...gone].flatMap(([table, rows]) => {
    const all = taken.get(table) ?? 0
    return rows * 2 > all
      ? [
          `${table}: ${number(rows)} of the ${number(all)} selected rows refer to rows outside the subset, so only ${number(all - rows)} were copied. Restrict fewer of the tables that refer to each other, or raise \`percent\``,
        ]
      : []
  })
}
