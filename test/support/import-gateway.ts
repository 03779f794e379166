// A gateway in front of an embedded PostgreSQL for tests of code that drives imports. It handles IMPORT INTO, SHOW JOBS
// and CANCEL JOB, and passes everything else on. The CockroachDB-like server is a separate program.
import { createServer, connect as dial, type Socket } from 'node:net'
import pg from 'pg'
import { type ImportOptions, importEngine } from '../../rehearsal/cockroach/import.ts'
import { split } from '../../rehearsal/cockroach/lexer.ts'
import { type ImportContext, type Job, SqlError, type Statement } from '../../rehearsal/cockroach/types.ts'
import type { EmbeddedServer } from '../../rehearsal/postgres/postgres.ts'

export interface ImportGateway {
  /** URL of the same database through the gateway. */
  readonly url: string
  readonly jobs: Job[]
  /** Tables that a job keeps offline, as `schema.table`. */
  readonly offline: Set<string>
  cancel(id: string): void
  /** Privileges that the user lacks; initially empty. */
  readonly without: Set<string>
  stop(): Promise<void>
}

export async function startImportGateway(
  server: EmbeddedServer,
  database: string,
  options: ImportOptions = {},
): Promise<ImportGateway> {
  const without = new Set<string>()
  const state = new State(server.urlOf(database), database, without)
  const engine = importEngine(options)
  const sockets = new Set<Socket>()
  const listener = createServer((client) => {
    sockets.add(client)
    client.on('close', () => sockets.delete(client))
    const left = new AbortController()
    const behind = dial(server.port, '127.0.0.1')
    client.on('error', () => {})
    behind.on('error', () => client.destroy())
    client.on('close', () => {
      left.abort()
      behind.destroy()
    })
    behind.pipe(client)
    relay(client, behind, async (sql) => answer(sql, state, engine, left.signal))
  })
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  const url = new URL(server.urlOf(database))
  url.port = String((listener.address() as { port: number }).port)
  return {
    url: url.href,
    jobs: state.jobs,
    offline: state.offline,
    cancel: (id) => state.cancel(id),
    without,
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => listener.close(resolve))
    },
  }
}

class State {
  readonly jobs: Job[] = []
  readonly offline = new Set<string>()
  readonly context: (signal: AbortSignal) => ImportContext
  readonly #cancels = new Map<string, (() => void) | undefined>()

  constructor(url: string, database: string, without: Set<string>) {
    const may = async (privilege: string) => !without.has(privilege)
    this.context = (signal) => ({
      session: { user: 'postgres', database, signal },
      version: [25, 2],
      jobs: {
        create: ({ onCancel, ...job }) => {
          const id = `${10n ** 18n + BigInt(this.jobs.length)}`
          const made: Job = { ...job, id, created: new Date(), status: 'running', fractionCompleted: 0 }
          this.jobs.push(made)
          this.#cancels.set(id, onCancel)
          return made
        },
        update: async (job, change) => void Object.assign(job, change),
        get: (id) => this.jobs.find((job) => job.id === id),
        list: () => this.jobs,
        cancel: async (id) => this.cancel(id),
      },
      async connect() {
        const client = new pg.Client({ connectionString: url })
        client.on('error', () => {})
        await client.connect()
        return client
      },
      hasPrivilege: (_schema, _table, privilege) => may(privilege),
      hasSystemPrivilege: may,
      takeOffline: async (schema, table) => void this.offline.add(`${schema}.${table}`),
      bringOnline: async (schema, table) => void this.offline.delete(`${schema}.${table}`),
    })
  }

  cancel(id: string): void {
    const job = this.jobs.find((each) => each.id === id)
    if (!job) throw new SqlError('42704', `job with ID ${id} does not exist`)
    job.status = 'cancel-requested'
    this.#cancels.get(id)?.()
  }
}

type Table = Record<string, string>[]

/** Rows for statements that the gateway answers itself; undefined for statements that it passes on. */
async function answer(
  sql: string,
  state: State,
  engine: ReturnType<typeof importEngine>,
  signal: AbortSignal,
): Promise<Table | undefined> {
  if (/^IMPORT INTO/i.test(sql)) {
    const result = await engine(split(sql)[0] as Statement, state.context(signal))
    return [{ job_id: result.jobId, status: result.status, rows: String(result.rows) }]
  }
  const cancel = /^CANCEL JOB (\d+)/.exec(sql)
  if (cancel) {
    state.cancel(cancel[1] as string)
    return []
  }
  const one = /\[SHOW JOB (\d+)\]/.exec(sql)?.[1]
  if (one || /\[SHOW JOBS\]/.test(sql))
    return state.jobs
      .filter(({ id }) => !one || id === one)
      .map((job) => ({
        id: job.id,
        description: one ? job.description : job.description.slice(0, 100),
        status: job.status,
        user: job.user,
        created: job.created.toISOString(),
        fraction: String(job.fractionCompleted),
      }))
  if (/^SELECT version\(\)/i.test(sql)) return [{ version: 'CockroachDB CCL v25.2.1 (gateway of a test)' }]
  return undefined
}

/** Passes a client's messages on, except simple queries that `own` answers. */
function relay(client: Socket, behind: Socket, own: (sql: string) => Promise<Table | undefined>): void {
  let buffer = Buffer.alloc(0)
  let started = false
  let busy = Promise.resolve()
  const take = (length: number) => {
    const message = buffer.subarray(0, length)
    buffer = buffer.subarray(length)
    return message
  }
  client.on('data', (chunk) => {
    buffer = Buffer.concat([buffer, chunk])
    for (;;) {
      const head = started ? 1 : 0
      if (buffer.length < head + 4) return
      const length = head + buffer.readInt32BE(head)
      if (buffer.length < length) return
      const message = Buffer.from(take(length))
      if (!started) {
        // A TLS request precedes the start-up message.
        started = message.readInt32BE(4) >> 16 === 3
        behind.write(message)
        continue
      }
      busy = busy.then(async () => {
        if (message[0] !== 0x51) return void behind.write(message)
        try {
          const rows = await own(message.subarray(5, -1).toString())
          if (rows) client.write(resultOf(rows))
          else behind.write(message)
        } catch (error) {
          client.write(failureOf(error))
        }
      })
    }
  })
}

function packet(type: string, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

const READY = packet('Z', Buffer.from('I'))
const text = (value: string) => Buffer.from(`${value}\0`)

function resultOf(rows: Table): Buffer {
  const names = Object.keys(rows[0] ?? {})
  const count = Buffer.alloc(2)
  count.writeInt16BE(names.length)
  // Each field is text: type 25, variable length, no modifier.
  const fields = names.map((name) => {
    const rest = Buffer.alloc(18)
    rest.writeInt32BE(25, 6)
    rest.writeInt16BE(-1, 10)
    rest.writeInt32BE(-1, 12)
    return Buffer.concat([text(name), rest])
  })
  const data = rows.map((row) =>
    packet(
      'D',
      count,
      ...names.map((name) => {
        const value = Buffer.from(row[name] as string)
        const length = Buffer.alloc(4)
        length.writeInt32BE(value.length)
        return Buffer.concat([length, value])
      }),
    ),
  )
  return Buffer.concat([
    ...(names.length ? [packet('T', count, ...fields)] : []),
    ...data,
    packet('C', text(`SELECT ${rows.length}`)),
    READY,
  ])
}

function failureOf(error: unknown): Buffer {
  const { code, message } = error instanceof SqlError ? error : { code: 'XX000', message: String(error) }
  return Buffer.concat([
    packet('E', text('SERROR'), text('VERROR'), text(`C${code}`), text(`M${message}`), Buffer.from('\0')),
    READY,
  ])
}
