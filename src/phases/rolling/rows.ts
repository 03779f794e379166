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

/** A part of a table: a range of keys with an open start and a closed end, or parts by the first hexadecimal digits of the key's hash. */
export type Piece =
  | { range: { after: readonly string[] | undefined; upTo: readonly string[] | undefined } }
  | { digits: number; buckets?: readonly string[] }

/** What rows are compared on. */
export interface Row {
  key: string[]
  /** Values that both servers write the same way. */
  hash: string
  /** The others, as text. */
  odd: (string | null)[]
}

/** Counts and sums of a piece; `sums` has one entry for each part of the table's columns. */
export interface Sums {
  bucket: string
  rows: number
  sums: string[]
}

/** The columns that are compared as values because their texts may differ. */
export function oddOf(table: RowShape): Column[] {
  return [...new Set(table.parts.filter(({ alike }) => !alike).flatMap(({ columns }) => columns))].filter(table.odd)
}

/** Adds up the hashes of the rows of a piece, by bucket where the piece is made of these. */
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

/** The rows of a piece, by their keys. */
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

/** What became of a requested key. */
export interface KeyedRow {
  /** Whether this side writes the key as in the question. If not, the row may exist and not be found. */
  readable: boolean
  row: Row | undefined
}

/**
 * Reads rows by their keys, in the requested order.
 * @returns on the source also what the statement could see
 */
export async function readKeys(
  side: Side,
  table: ProvableTable,
  keys: readonly (readonly string[])[],
): Promise<{ rows: KeyedRow[]; snapshot: Snapshot | undefined }> {
  const { key } = table
  // Names that no column of a table has, so that none needs its table's name before it.
  const names = key.map((_, i) => `molt_actions_k${i}`)
  const casts = key.map(({ type }, i) => `${names[i]}::${keyCast(type)}`)
  const on = key.map(({ name }, i) => `${ident(name)} = ${casts[i]}`).join(' AND ')
  const asked = key.map((column, i) => `${names[i]} = ${keyText(column, `(${casts[i]})`)}`).join(' AND ')
  const { rows } = await side.db.query({
    text: `SELECT ${asked} AS readable, ${ident((key[0] as Column).name)} IS NOT NULL AS there,
                  ${side.isSource ? '(SELECT pg_catalog.txid_current_snapshot()::text)' : 'NULL'} AS seen,
                  ${rowList(table).join(', ')}
             FROM unnest(${key.map((_, i) => `$${i + 1}::text[]`).join(', ')}) WITH ORDINALITY AS asked(${[...names, 'molt_actions_n'].join(', ')})
             LEFT JOIN ${nameOn(side, table)} ON ${on}
            ORDER BY molt_actions_n`,
    values: key.map((_, i) => keys.map((each) => each[i])),
    rowMode: 'array',
  })
  if (rows.length !== keys.length)
    throw new Error(`${table.name}: ${keys.length} keys were asked for, ${rows.length} answered`)
  const seen = rows[0]?.[2]
  return {
    rows: rows.map(([readable, there, , ...row]) => ({ readable, row: there ? toRow(table, row) : undefined })),
    snapshot: seen ? parseSnapshot(seen) : undefined,
  }
}

/** The last key of the next `size` rows after `after`; undefined when fewer are left. */
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

/** Whether two rows are equal; undefined when their texts differ and their values cannot be compared. */
export function sameRow(table: RowShape, a: Row | undefined, b: Row | undefined): boolean | undefined {
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

/** As the source's log writes it, which reads times with a zone in UTC. */
function keyText({ type }: Column, expression: string): string {
  if (type === 'boolean') return `CASE WHEN ${expression} THEN 't' ELSE 'f' END`
  if (/^timestamp.* with time zone$/.test(type)) return `((${expression} AT TIME ZONE 'UTC')::text || '+00')`
  return `${expression}::text`
}

/** What {@link toRow} reads. */
function rowList(table: ProvableTable): string[] {
  const alike = table.parts.find((part) => part.alike)?.columns ?? table.key
  return [
    ...table.key.map((column) => keyText(column, ident(column.name))),
    `md5(${joined(alike.map(table.text))})`,
    ...oddOf(table).map(table.text),
  ]
}

function toRow(table: ProvableTable, values: readonly (string | null)[]): Row {
  const { length } = table.key
  return { key: values.slice(0, length) as string[], hash: values[length] as string, odd: values.slice(length + 1) }
}

function hashed(table: ProvableTable, { columns, alike }: Part): string[] {
  return (alike ? columns : [...new Set([...table.key, ...columns])]).map(table.text)
}

/** The part of a table to which a key belongs; the same on both servers. */
function bucketOf(table: ProvableTable, digits: number): string {
  return `substr(md5(${joined(table.key.map(table.text))}), 1, ${digits})`
}

/** The key's columns in the order of its index, which reads ranges without sorting. */
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
