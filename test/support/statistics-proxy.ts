import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer, connect as dial, type Socket } from 'node:net'
import pg from 'pg'

/*
 * Stands before a PostgreSQL and keeps statement statistics of what passes through, in the columns and JSON of
 * CockroachDB's crdb_internal (cockroachdb/docs, `crdb-internal.md`). Durations, rows and errors are those of the
 * statements themselves. Only what `observe` asks of CockroachDB is answered; all else goes to PostgreSQL as it is.
 */

interface Counted {
  calls: number
  failures: number
  rows: number
  seconds: number[]
  lastError: string
}

export interface StatisticsProxy {
  url: string
  stop(): Promise<void>
}

const SCHEMA = `
  CREATE SCHEMA crdb;
  CREATE TABLE crdb.statement_statistics (aggregated_ts timestamptz, app_name text, metadata jsonb, statistics jsonb);
  CREATE TABLE crdb.transaction_statistics (LIKE crdb.statement_statistics);
  CREATE TABLE crdb.jobs (job_id int8, job_type text, status text, finished timestamptz);
  DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'admin') THEN CREATE ROLE admin; END IF; END $$`

const SESSIONS = `(SELECT 1 AS node_id, usename::text AS user_name, coalesce(application_name, '') AS application_name
  FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend') sessions`

const REWRITES: readonly [RegExp, string][] = [
  [/\bversion\(\)/g, "'CockroachDB CCL v25.2.1 (like)'::text"],
  [/crdb_internal\./g, 'crdb.'],
  [/\[SHOW CLUSTER SESSIONS\]/g, SESSIONS],
  [/\[SHOW JOBS\]/g, '(SELECT * FROM crdb.jobs) jobs'],
  [/\[SHOW SYSTEM GRANTS\]/g, "(SELECT 'public'::text AS grantee, 'VIEWJOB'::text AS privilege_type)"],
  [/SHOW CLUSTER SETTING \S+/g, 'SELECT -1 AS setting'],
  [/::STRING\b/g, '::TEXT'],
]

/** @param postgres URL of the database behind */
export async function startStatisticsProxy(postgres: string): Promise<StatisticsProxy> {
  const behind = new URL(postgres)
  const admin = new pg.Client({ connectionString: postgres, application_name: 'molt-actions' })
  await admin.connect()
  await admin.query(SCHEMA)
  const statistics = new Map<string, Counted>()
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = dial(Number(behind.port), behind.hostname)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    relay(client, upstream, statistics, () => publish(admin, statistics))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = new URL(postgres)
  url.port = String((server.address() as AddressInfo).port)
  return {
    url: url.href,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await admin.end()
    },
  }
}

/** Whole messages of one direction; the first of a client has no type. */
function messages(
  untyped: boolean,
  each: (type: string, body: Buffer, whole: Buffer) => void,
): (chunk: Buffer) => void {
  let rest = Buffer.alloc(0)
  let first = untyped
  return (chunk) => {
    rest = Buffer.concat([rest, chunk])
    for (;;) {
      const head = first ? 0 : 1
      if (rest.length < head + 4) return
      const length = head + rest.readInt32BE(head)
      if (rest.length < length) return
      const whole = rest.subarray(0, length)
      rest = rest.subarray(length)
      each(first ? 'startup' : String.fromCharCode(whole[0] as number), whole.subarray(head + 4), whole)
      first = false
    }
  }
}

function relay(client: Socket, upstream: Socket, statistics: Map<string, Counted>, refresh: () => Promise<void>): void {
  const prepared = new Map<string, string>()
  const pending: { text: string; at: number }[] = []
  let application = ''
  let bound = ''
  // What is rewritten waits for the statistics to be published; order is kept.
  let order = Promise.resolve()
  client.on(
    'data',
    messages(true, (type, body, whole) => {
      const strings = body.toString('utf8').split('\0')
      let sent = whole
      let asks = false
      if (type === 'startup') application = strings[strings.indexOf('application_name') + 1] ?? ''
      if (type === 'Q' || type === 'P') {
        const at = type === 'Q' ? 0 : 1
        const text = strings[at] as string
        const changed = REWRITES.reduce((sql, [from, to]) => sql.replace(from, to), text)
        asks = /crdb\./.test(changed)
        if (changed !== text) sent = withText(type, body, at, text, changed)
        if (type === 'P') prepared.set(strings[0] as string, text)
        else pending.push({ text, at: performance.now() })
      }
      if (type === 'B') bound = prepared.get(strings[1] as string) ?? ''
      if (type === 'E') pending.push({ text: bound, at: performance.now() })
      order = order.then(async () => {
        if (asks) await refresh()
        upstream.write(sent)
      })
    }),
  )
  const ended = (error: string, rows: number) => {
    const statement = pending.shift()
    if (statement) count(statistics, application, statement.text, performance.now() - statement.at, error, rows)
  }
  upstream.on(
    'data',
    messages(false, (type, body, whole) => {
      if (type === 'C') ended('', Number(/(\d+)\0$/.exec(body.toString())?.[1] ?? 0))
      if (type === 'E') ended(/\0C(\w{5})\0/.exec(`\0${body.toString()}`)?.[1] ?? 'XX000', 0)
      if (type === 'Z') pending.length = 0
      client.write(whole)
    }),
  )
}

function withText(type: string, body: Buffer, at: number, text: string, changed: string): Buffer {
  const before = at ? body.subarray(0, body.indexOf(0) + 1) : Buffer.alloc(0)
  const after = body.subarray(before.length + Buffer.byteLength(text))
  const content = Buffer.concat([before, Buffer.from(changed), after])
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(content.length + 4, 1)
  return Buffer.concat([head, content])
}

/** As CockroachDB keeps a text: constants and placeholders are `_`. */
const hidden = (text: string) => text.replace(/\$\d+|'(?:[^']|'')*'|\b\d+(?:\.\d+)?\b/g, '_')

function count(all: Map<string, Counted>, application: string, text: string, ms: number, error: string, rows: number) {
  const key = JSON.stringify([application, hidden(text)])
  const known = all.get(key) ?? { calls: 0, failures: 0, rows: 0, seconds: [], lastError: '' }
  known.calls++
  known.rows += rows
  known.seconds.push(ms / 1000)
  if (error) {
    known.failures++
    known.lastError = error
  }
  all.set(key, known)
}

async function publish(admin: pg.Client, all: Map<string, Counted>): Promise<void> {
  const rows = [...all].map(([key, { calls, failures, rows, seconds, lastError }]) => {
    const [application, query] = JSON.parse(key)
    const mean = seconds.reduce((sum, each) => sum + each, 0) / calls
    const sqDiff = seconds.reduce((sum, each) => sum + (each - mean) ** 2, 0)
    return {
      app_name: application,
      metadata: { query, db: admin.database, fullScan: false, stmtType: 'TypeDML' },
      statistics: {
        statistics: {
          cnt: calls,
          firstAttemptCnt: calls,
          failureCount: failures,
          lastErrorCode: lastError,
          maxRetries: 0,
          numRows: { mean: rows / calls, sqDiff: 0 },
          svcLat: { mean, sqDiff },
        },
      },
    }
  })
  await admin.query(
    `WITH gone AS (DELETE FROM crdb.statement_statistics)
     INSERT INTO crdb.statement_statistics
     SELECT date_trunc('hour', now()), app_name, metadata, statistics
       FROM jsonb_to_recordset($1::jsonb) AS r(app_name text, metadata jsonb, statistics jsonb)`,
    [JSON.stringify(rows)],
  )
}
