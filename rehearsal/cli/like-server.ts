// `npm run like-server -- --behind URL`: makes a PostgreSQL server answer like CockroachDB until Ctrl-C.
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { InputError, messageOf } from '../../src/runtime/errors.ts'
import { startCockroach } from '../cockroach/server.ts'

/** Older versions require an alias for every derived table, and rewritten statements have none. */
const OLDEST = 16

const HELP = `npm run like-server -- --behind URL [--target-version 25.2]

  --behind URL         PostgreSQL 16 or newer on this machine, with track_commit_timestamp = on and a superuser's login. The
                       CockroachDB-like server adds the schema _crdb to its databases
  --target-version V   CockroachDB version to imitate (default 25.2)`

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      behind: { type: 'string' },
      'target-version': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return console.log(HELP)
  if (!values.behind)
    throw new InputError('rehearse.invalid-option', '--behind is missing. Set it to the URL of a PostgreSQL server')
  const behind = new URL(values.behind)
  await requireFit(values.behind)
  const server = await startCockroach(
    {
      port: Number(behind.port || 5432),
      urlOf: (database) => Object.assign(new URL(behind), { pathname: `/${encodeURIComponent(database)}` }).href,
    },
    { version: values['target-version'] },
  )
  console.log(server.urlOf(decodeURIComponent(behind.pathname.slice(1))))
  await Promise.race(['SIGINT', 'SIGTERM'].map((signal) => once(process, signal)))
  for (const sql of server.unknown) console.error(`no rule covers: ${sql}`)
  await server.stop()
}

/** @throws InputError if the PostgreSQL server is too old or lacks a required setting */
async function requireFit(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  const { rows } = await client.query(
    "SELECT current_setting('server_version_num')::int / 10000 AS version, current_setting('track_commit_timestamp') AS times",
  )
  await client.end()
  if (rows[0].version < OLDEST)
    throw new InputError(
      'rehearse.invalid-option',
      `--behind is PostgreSQL ${rows[0].version}. Use PostgreSQL ${OLDEST} or newer`,
    )
  if (rows[0].times !== 'on')
    throw new InputError(
      'rehearse.invalid-option',
      '--behind does not record commit timestamps, which a cutover needs. Run `ALTER SYSTEM SET track_commit_timestamp = on;` there, and restart the server',
    )
}

try {
  await main()
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 2
}
