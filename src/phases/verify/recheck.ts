import { setTimeout as sleep } from 'node:timers/promises'
import { isVisible, parseSnapshot, type Snapshot } from '../../model/snapshot.ts'
import type { Table } from '../../model/tables.ts'
import { plainForm } from '../../model/values.ts'
import { type Database, ident, qualified } from '../../runtime/database.ts'
import { messageOf } from '../../runtime/errors.ts'
import { seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readMarker, writeMarker } from '../../source/heartbeat.ts'
import type { Recheck, RowDifference } from '../../tools/molt-verify.ts'
import { scrubText } from '../../tools/scrub.ts'

/** The differing rows of one table. `definition` is the table's definition on the source. */
export interface Suspects {
  definition: Table
  rows: readonly RowDifference[]
  /** Number of differing rows, including those not listed. */
  total: number
}

export interface RecheckOptions {
  sourceSchema: string
  targetSchema: string
  /** Maximum number of rows per table. */
  limit: number
  /** Maximum time for a marker to reach the target, in milliseconds. */
  markerTimeout: number
  rounds: number
  /** A snapshot of the source that had fully arrived on the target before molt started; undefined if there is none. */
  arrived?: Snapshot
  signal: AbortSignal
}

/** A row in a form that is the same on both sides. `version` changes with each write. */
interface Row {
  text: string
  version: string
}

interface Pending {
  key: string[]
  /** Number of rounds in which the row differed although the source had not changed it. */
  stood: number
}

const BATCH = 500
/**
 * Number of such rounds after which the row counts as lost. One is not enough: a row that was deleted and reinserted
 * between two readings can look unchanged.
 */
const LOSS_AFTER = 2

/**
 * Rechecks rows that differed while changes were streaming. Each round reads the rows on the source, sends a marker
 * through the stream, waits for it to arrive, and reads both sides. A row that the source did not change in between
 * must now be equal, because changes arrive in order.
 * @returns the outcome for each table's differences. `problem` says why some rows could not be checked
 */
export async function recheckRows(
  source: Database,
  target: Database,
  suspects: readonly Suspects[],
  options: RecheckOptions,
): Promise<{ tables: Map<string, Recheck>; problem?: string }> {
  const tables = new Map<string, Recheck>()
  const pending = new Map<string, Pending[]>()
  const readers = new Map<string, (side: 'source' | 'target', keys: string[][]) => Promise<Map<string, Row>>>()
  for (const { definition, rows, total } of suspects) {
    const { name } = definition
    const looked = await readableKeys(
      source,
      definition,
      rows.slice(0, options.limit).map(({ key }) => key),
    )
    tables.set(name, { lag: 0, loss: 0, changing: 0, unlike: 0, unchecked: total - looked.length })
    pending.set(
      name,
      looked.map((key) => ({ key, stood: 0 })),
    )
    const read = {
      source: rowReader(source, options.sourceSchema, definition, true),
      target: rowReader(target, options.targetSchema, definition, false),
    }
    readers.set(name, (side, keys) => read[side](keys))
  }
  let problem: string | undefined
  try {
    for (let round = 0; round < options.rounds && [...pending.values()].some((each) => each.length); round++) {
      if (round) await sleep(TIMING.recheckPause, undefined, { signal: options.signal })
      await look(source, target, { tables, pending, readers }, options)
    }
  } catch (error) {
    options.signal.throwIfAborted()
    problem = `could not tell whether the differing rows are only lag: ${scrubText(messageOf(error))}`
  }
  for (const [name, left] of pending) (tables.get(name) as Recheck)[problem ? 'unchecked' : 'changing'] += left.length
  return problem ? { tables, problem } : { tables }
}

interface State {
  tables: Map<string, Recheck>
  pending: Map<string, Pending[]>
  readers: Map<string, (side: 'source' | 'target', keys: string[][]) => Promise<Map<string, Row>>>
}

async function look(source: Database, target: Database, state: State, options: RecheckOptions): Promise<void> {
  const read = async (side: 'source' | 'target') => {
    const found = new Map<string, Map<string, Row>>()
    for (const [name, rows] of state.pending)
      found.set(
        name,
        (await state.readers.get(name)?.(
          side,
          rows.map(({ key }) => key),
        )) ?? new Map(),
      )
    return found
  }
  const before = await read('source')
  await passMarker(source, target, options)
  const there = await read('target')
  const after = await read('source')
  for (const [name, rows] of state.pending) {
    const recheck = state.tables.get(name) as Recheck
    const row = (side: Map<string, Map<string, Row>>, key: string[]) => side.get(name)?.get(JSON.stringify(key))
    state.pending.set(
      name,
      rows.filter((each) => {
        const [was, is, arrived] = [row(before, each.key), row(after, each.key), row(there, each.key)]
        if (arrived?.text === is?.text || arrived?.text === was?.text)
          recheck[is && isUnchanged(is, options.arrived) ? 'unlike' : 'lag']++
        else if (was?.version !== is?.version) {
          each.stood = 0
          return true
        } else if (++each.stood < LOSS_AFTER) return true
        else recheck.loss++
        return false
      }),
    )
  }
}

/**
 * Whether both sides already had this version of the row before molt started. If both are equal now, the row never
 * lagged.
 */
function isUnchanged({ version }: Row, arrived: Snapshot | undefined): boolean {
  return arrived !== undefined && isVisible(arrived, Number(version))
}

/**
 * Takes a snapshot of the source, and waits until everything in it is on the target.
 * @returns undefined if that takes longer than `markerTimeout`
 */
export async function arrivedSnapshot(
  source: Database,
  target: Database,
  options: Pick<RecheckOptions, 'targetSchema' | 'markerTimeout' | 'signal'>,
): Promise<Snapshot | undefined> {
  const { rows } = await source.query('SELECT pg_catalog.txid_current_snapshot()::text AS snapshot')
  try {
    await passMarker(source, target, options)
    return parseSnapshot(rows[0].snapshot)
  } catch {
    options.signal.throwIfAborted()
    return undefined
  }
}

/**
 * Writes a heartbeat and waits until it is on the target. By then, everything committed before it has been applied.
 * @throws Error if that takes longer than `markerTimeout`
 */
export async function passMarker(
  source: Database,
  target: Database,
  options: Pick<RecheckOptions, 'targetSchema' | 'markerTimeout' | 'signal'>,
): Promise<void> {
  const beat = await writeMarker(source, '')
  const deadline = performance.now() + options.markerTimeout
  for (;;) {
    const seen = await readMarker(target, options.targetSchema)
    if (seen && seen.beat >= beat) return
    options.signal.throwIfAborted()
    if (performance.now() > deadline)
      throw new Error(
        `no marker reached the target within ${seconds(options.markerTimeout)}. Check that the stream is running: run \`replicate\` in parallel, or verify after the drain`,
      )
    await sleep(TIMING.markerLook)
  }
}

/**
 * Keeps the keys that the database prints exactly as molt did. If the text differed, the row would be found on neither
 * side and would seem equal.
 */
async function readableKeys(source: Database, table: Table, keys: readonly string[][]): Promise<string[][]> {
  const types = table.key.map((name) => table.columns.find((column) => column.name === name)?.type ?? 'text')
  const whole = keys.filter((key) => key.length === types.length)
  const readable: string[][] = []
  for (let at = 0; at < whole.length; at += BATCH) {
    const batch = whole.slice(at, at + BATCH)
    const tuples = batch.map(
      (values, row) =>
        `(${values.map((_, i) => `($${row * types.length + i + 1}::text)::${types[i]}::text`).join(', ')})`,
    )
    const { rows } = await source
      .query({ text: `VALUES ${tuples.join(', ')}`, values: batch.flat(), rowMode: 'array' })
      .catch(() => ({ rows: [] }))
    readable.push(...batch.filter((key, row) => JSON.stringify(rows[row]) === JSON.stringify(key)))
  }
  return readable
}

/** Returns a function that reads rows by their keys, with values in a form that is the same on both servers. */
function rowReader(db: Database, schema: string, table: Table, versions: boolean) {
  const { columns } = table
  const key = table.key.map(ident)
  const list = [...key.map((name) => `${name}::text`), ...columns.map(({ name }) => `${ident(name)}::text`)]
  const select = `SELECT ${[...list, versions ? 'xmin::text' : "''"].join(', ')} FROM ${qualified(schema, table.name)} WHERE`
  return async (keys: string[][]): Promise<Map<string, Row>> => {
    const found = new Map<string, Row>()
    for (let at = 0; at < keys.length; at += BATCH) {
      const batch = keys.slice(at, at + BATCH)
      const tuples = batch.map((values, row) => `(${values.map((_, i) => `$${row * key.length + i + 1}`).join(', ')})`)
      const where = `(${key.join(', ')}) IN (${tuples.join(', ')})`
      const { rows } = await db.query({ text: `${select} ${where}`, values: batch.flat(), rowMode: 'array' })
      const asked = new Set(batch.map((values) => JSON.stringify(values)))
      for (const row of rows as (string | null)[][]) {
        const name = JSON.stringify(row.slice(0, key.length))
        if (!asked.has(name)) throw new Error(`a key of ${table.name} was returned with a different text`)
        const values = columns.map(({ type, labels }, i) => {
          const text = row[key.length + i] as string | null
          return text === null ? null : (plainForm(type, text, labels !== null) ?? text)
        })
        found.set(name, { text: JSON.stringify(values), version: row.at(-1) as string })
      }
    }
    return found
  }
}
