import { parseSnapshot, type Snapshot } from '../../model/snapshot.ts'
import type { Column } from '../../model/tables.ts'
import { plainForm } from '../../model/values.ts'
import { ident, qualified } from '../../runtime/database.ts'
import { joined, type Part, type RowShape, type Session, sameValue } from '../verify/row-digests.ts'
import { keyCast, type ProvableTable } from './tables.ts'

/** One side of a comparison. */
export interface Side extends Session {
  schema: string
  isSource: boolean
}

/**
 * A part of a table: either the keys after `after` up to and including `upTo`, or the keys whose hash begins with one
 * of the `buckets`, each of which has `digits` hexadecimal digits.
 */
export type Piece =
  | { range: { after: readonly string[] | undefined; upTo: readonly string[] | undefined } }
  | { digits: number; buckets?: readonly string[] }

/** The parts of a row that are compared. */
export interface Values {
  /** Hash of the values that both servers print the same way. */
  hash: string
  /** All other values, as text. */
  odd: (string | null)[]
}

export interface Row extends Values {
  key: string[]
}

/** Row count and sums of hashes of a piece. `sums` has one entry for each part of the table's columns. */
export interface Sums {
  bucket: string
  rows: number
  sums: string[]
}

/** The columns that are compared by value, because the two servers may print them differently. */
export function oddOf(table: RowShape): Column[] {
  return [...new Set(table.parts.filter(({ alike }) => !alike).flatMap(({ columns }) => columns))].filter(table.odd)
}

/** Counts the rows of a piece and adds up their hashes, per bucket if the piece has buckets. */
export async function readSums(side: Side, table: ProvableTable, piece: Piece): Promise<Sums[]> {
  const { where, values } = condition(table, piece)
  const hashes = table.parts.map((part, i) => `md5(${joined(hashed(table, part))}) AS h${i}`)
  const bucket = 'range' in piece ? "''" : bucketOf(table, piece.digits)
  const { rows } = await side.db.query({
    text: `SELECT bucket, count(*)::text${hashes.map((_, i) => `, coalesce(sum(${side.number(`h${i}`)}), 0)::text`).join('')}
             FROM (SELECT ${[`${bucket} AS bucket`, ...hashes].join(', ')} FROM ${nameOn(side, table)}${where}) AS hashed
            GROUP BY bucket`,
    values,
    rowMode: 'array',
  })
  return rows.map(([name, count, ...sums]: string[]) => ({
    bucket: name as string,
    rows: Number(count),
    sums: sums.map((sum) => plainForm('numeric', sum) as string),
  }))
}

/** Reads the rows of a piece. The map's keys are the rows' keys as JSON. */
export async function readPiece(side: Side, table: ProvableTable, piece: Piece): Promise<Map<string, Row>> {
  const { where, values } = condition(table, piece)
  const { rows } = await side.db.query({
    text: `SELECT ${rowList(table).join(', ')} FROM ${nameOn(side, table)}${where}`,
    values,
    rowMode: 'array',
  })
  return new Map(
    rows.map((row: (string | null)[]) => [JSON.stringify(row.slice(0, table.key.length)), toRow(table, row)]),
  )
}

/** The answer for one requested key. */
export interface KeyedRow {
  /** Whether this side prints the key exactly as requested. If not, a missing row may exist after all. */
  readable: boolean
  row: Values | undefined
}

/**
 * Reads rows by their keys, in the requested order.
 * @returns the rows and, on the source, the snapshot that the statement saw
 */
export async function readKeys(
  side: Side,
  table: ProvableTable,
  keys: readonly (readonly string[])[],
): Promise<{ rows: KeyedRow[]; snapshot: Snapshot | undefined }> {
  const { key } = table
  // Use names that no column has, so that column names need no qualifier.
  const names = key.map((_, i) => `molt_actions_k${i}`)
  const casts = key.map(({ type }, i) => `${names[i]}::${keyCast(type)}`)
  const on = key.map(({ name }, i) => `${ident(name)} = ${casts[i]}`).join(' AND ')
  const asked = key.map((column, i) => `${names[i]} = ${keyText(column, `(${casts[i]})`)}`).join(' AND ')
  const { rows } = await side.db.query({
    text: `SELECT ${asked} AS readable, ${ident((key[0] as Column).name)} IS NOT NULL AS there,
                  ${side.isSource ? 'CASE WHEN molt_actions_n = 1 THEN (SELECT pg_catalog.txid_current_snapshot()::text) END' : 'NULL'} AS seen,
                  ${valueList(table).join(', ')}
             FROM unnest(${key.map((_, i) => `$${i + 1}::text[]`).join(', ')}) WITH ORDINALITY AS asked(${[...names, 'molt_actions_n'].join(', ')})
             LEFT JOIN ${nameOn(side, table)} ON ${on}
            ORDER BY molt_actions_n`,
    values: key.map((_, i) => keys.map((each) => each[i])),
    rowMode: 'array',
  })
  if (rows.length !== keys.length)
    throw new Error(`${table.name}: ${keys.length} keys were requested, but ${rows.length} rows returned`)
  const seen = rows[0]?.[2]
  return {
    rows: rows.map(([readable, there, , hash, ...odd]) => ({
      readable,
      row: there ? { hash, odd } : undefined,
    })),
    snapshot: seen ? parseSnapshot(seen) : undefined,
  }
}

/** Returns the last key of the next `size` rows after `after`; undefined if fewer remain. */
export async function nextBound(
  side: Side,
  table: ProvableTable,
  after: readonly string[] | undefined,
  size: number,
): Promise<string[] | undefined> {
  const { where, values } = condition(table, { range: { after, upTo: undefined } })
  const { rows } = await side.db.query({
    text: `SELECT ${indexColumns(table)
      .map((column) => keyText(column, ident(column.name)))
      .join(', ')} FROM ${nameOn(side, table)}${where}
            ORDER BY ${table.keyIndex.map(ident).join(', ')} OFFSET ${size - 1} LIMIT 1`,
    values,
    rowMode: 'array',
  })
  return rows[0]
}

/** Whether two rows are equal; undefined if their text differs and the values cannot be compared. */
export function sameRow(table: RowShape, a: Values | undefined, b: Values | undefined): boolean | undefined {
  if (!a || !b) return a === b
  if (a.hash !== b.hash) return false
  let same: boolean | undefined = true
  for (const [i, column] of oddOf(table).entries()) {
    const each = sameValue(column, a.odd[i] as string | null, b.odd[i] as string | null)
    if (each === false) return false
    if (each === undefined) same = undefined
  }
  return same
}

function nameOn(side: Side, table: ProvableTable): string {
  return qualified(side.schema, table.name)
}

/** SQL for a key's text in the form of the change log, with times in UTC. */
function keyText({ type }: Column, expression: string): string {
  if (type === 'boolean') return `CASE WHEN ${expression} THEN 't' ELSE 'f' END`
  if (/^timestamp.* with time zone$/.test(type))
    return `replace(replace((${expression} AT TIME ZONE 'UTC')::text || '+00', 'infinity+00', 'infinity'), ' BC+00', '+00 BC')`
  return `${expression}::text`
}

/** SQL for the values that {@link toRow} reads. */
function rowList(table: ProvableTable): string[] {
  return [...table.key.map((column) => keyText(column, ident(column.name))), ...valueList(table)]
}

/** SQL for a row's hash and its odd values. */
function valueList(table: ProvableTable): string[] {
  const alike = table.parts.find((part) => part.alike)?.columns ?? table.key
  return [`md5(${joined(alike.map(table.text))})`, ...oddOf(table).map(table.text)]
}

function toRow(table: ProvableTable, values: readonly (string | null)[]): Row {
  const { length } = table.key
  return { key: values.slice(0, length) as string[], hash: values[length] as string, odd: values.slice(length + 1) }
}

function hashed(table: ProvableTable, { columns, alike }: Part): string[] {
  return (alike ? columns : [...new Set([...table.key, ...columns])]).map(table.text)
}

/** SQL for a key's bucket, which is the same on both servers. */
function bucketOf(table: ProvableTable, digits: number): string {
  return `substr(md5(${joined(table.key.map(table.text))}), 1, ${digits})`
}

/** The key's columns in the order of the key's index, so that ranges are read without sorting. */
function indexColumns({ key, keyIndex }: ProvableTable): Column[] {
  return keyIndex.map((name) => key.find((column) => column.name === name) as Column)
}

function condition(table: ProvableTable, piece: Piece): { where: string; values: unknown[] } {
  if (!('range' in piece)) {
    if (!piece.buckets) return { where: '', values: [] }
    return { where: ` WHERE ${bucketOf(table, piece.digits)} = ANY ($1)`, values: [piece.buckets] }
  }
  const { after = [], upTo = [] } = piece.range
  const columns = indexColumns(table)
  const tuple = `(${columns.map(({ name }) => ident(name)).join(', ')})`
  const bound = (from: number) =>
    `(${columns.map(({ type }, i) => `$${from + i + 1}::text::${keyCast(type)}`).join(', ')})`
  const parts = [
    ...(after.length ? [`${tuple} > ${bound(0)}`] : []),
    ...(upTo.length ? [`${tuple} <= ${bound(after.length)}`] : []),
  ]
  return { where: parts.length ? ` WHERE ${parts.join(' AND ')}` : '', values: [...after, ...upTo] }
}
