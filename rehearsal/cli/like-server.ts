// `npm run like-server -- --behind URL`: lets a PostgreSQL answer like CockroachDB, until Ctrl-C.
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { InputError } from '../../src/runtime/errors.ts'
import { startCockroach } from '../cockroach/server.ts'

const HELP = `npm run like-server -- --behind URL [--target-version 25.2]

  --behind URL         a superuser of a PostgreSQL on this machine; the server adds the schema _crdb to its databases
  --target-version V   the CockroachDB that it answers like (default 25.2)`

const { values } = parseArgs({
  options: {
    behind: { type: 'string' },
    'target-version': { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) console.log(HELP)
else {
  if (!values.behind) throw new InputError('rehearse.invalid-option', 'Set --behind to the URL of a PostgreSQL')
  const behind = new URL(values.behind)
  const server = await startCockroach(
    {
      port: Number(behind.port || 5432),
      urlOf: (database) => Object.assign(new URL(behind), { pathname: `/${encodeURIComponent(database)}` }).href,
    },
    { version: values['target-version'] },
  )
  console.log(server.urlOf(decodeURIComponent(behind.pathname.slice(1))))
  await Promise.race(['SIGINT', 'SIGTERM'].map((signal) => once(process, signal)))
  for (const sql of server.unknown) console.error(`no rule knows: ${sql}`)
  await server.stop()
}
