import { type Database, ident, qualified } from '../runtime/database.ts'
import { columnOf, fromItem, type MaskTable } from './catalog.ts'
import { Hashes, literal } from './expressions.ts'
import type { Edge, Plan } from './plan.ts'
import type { Rules } from './rules.ts'

type Subset = NonNullable<Rules['subset']>

/**
 * Which rows of each table are read: its own predicate, and for every reference to a restricted table that the row
 * referred to is read as well. Cycles and self-references are cut here and closed on the other side, by {@link close}.
 * @returns predicates over `t`, for the tables that have one
 */
export function subsetPredicates(plan: Plan, subset: Subset): Map<string, string> {
  const restricted = restrictedTables(plan.edges, Object.keys(subset))
  const tables = new Map(plan.tables.map(({ table }) => [table.name, table]))
  const hashes = new Hashes(plan.domains)
  const predicate = (name: string, path: readonly string[]): string => {
    const table = tables.get(name) as MaskTable
    const parts = ownPredicates(table, subset[name], hashes, plan)
    for (const edge of plan.edges) {
      if (edge.from !== name || !restricted.has(edge.to) || edge.to === name || path.includes(edge.to)) continue
      const parent = tables.get(edge.to) as MaskTable
      parts.push(referred(edge, parent, predicate(edge.to, [...path, name])))
    }
    return parts.join(' AND ')
  }
  return new Map(
    [...restricted].map((name) => [name, predicate(name, [])]).filter(([, where]) => where) as [string, string][],
  )
}

/** The tables with a predicate, and all that refer to them, however far away. */
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
  if (own?.where) parts.push(`(${own.where})`)
  if (own?.percent !== undefined) {
    if (!table.key.length) plan.problems.push(`subset: ${table.name} has no primary key to take a percentage by`)
    else {
      const hash = hashes.lightRow(`${table.name} subset`, table)
      parts.push(`abs(${hash} % 1000000) < ${Math.round(own.percent * 10_000)}`)
    }
  }
  return parts
}

/** The row's values go through `r`, so that every level can call its own row `t`. */
function referred(edge: Edge, parent: MaskTable, where: string): string {
  const values = edge.columns.map(columnOf)
  const names = edge.columns.map((_, at) => `k${at}`)
  const text = edge.asText ? '::text' : ''
  const meets = edge.toColumns.map((name, at) => `${columnOf(name)}${text} = r.k${at}${text}`)
  const exists = `EXISTS (SELECT FROM (VALUES (${values.join(', ')})) AS r(${names.join(', ')}), LATERAL (SELECT FROM ${fromItem(parent)} AS t WHERE ${[...meets, where].filter(Boolean).join(' AND ')}) AS u)`
  const absent = [...values.map((value) => `${value} IS NULL`), ...unless(edge)]
  return `(${absent.join(' OR ')} OR ${exists})`
}

function unless({ when }: Edge): string[] {
  return when ? [`${columnOf(when.column)}::text IS DISTINCT FROM ${literal(when.is)}`] : []
}

/** Rows of `edge.from` that refer to a row that is not there, as a predicate over `t`. */
export function dangling(edge: Edge, schema: string): string {
  const text = edge.asText ? '::text' : ''
  const meets = edge.columns.map(
    (name, at) => `p.${ident(edge.toColumns[at] as string)}${text} = ${columnOf(name)}${text}`,
  )
  const there = edge.columns.map((name) => `${columnOf(name)} IS NOT NULL`)
  const when = edge.when ? [`${columnOf(edge.when.column)}::text = ${literal(edge.when.is)}`] : []
  return [
    ...there,
    ...when,
    `NOT EXISTS (SELECT FROM ${qualified(schema, edge.to)} p WHERE ${meets.join(' AND ')})`,
  ].join(' AND ')
}

/**
 * Takes away rows that refer to a row that was not taken, until none is left: what a predicate cannot say of cycles.
 * @returns rows that went, by table
 */
export async function close(target: Database, plan: Plan): Promise<Map<string, number>> {
  const gone = new Map<string, number>()
  for (let changed = true; changed; ) {
    changed = false
    for (const edge of plan.edges) {
      const from = qualified(plan.schema, edge.from)
      const { rowCount } = await target.query(`DELETE FROM ${from} AS t WHERE ${dangling(edge, plan.schema)}`)
      if (!rowCount) continue
      changed = true
      gone.set(edge.from, (gone.get(edge.from) ?? 0) + rowCount)
    }
  }
  return gone
}
