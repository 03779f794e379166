// `--printed-grants`: runs the chain as migration roles with exactly the privileges that `grants: print` lists. The
// target resembles that of a live application: it has roles with write privileges, unique indexes, checks and foreign
// keys.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { withDatabase } from '../../src/runtime/database.ts'
import { UserError } from '../../src/runtime/errors.ts'
import { withLogin } from '../../src/runtime/url.ts'
import { split } from '../cockroach/lexer.ts'
import { runAction } from '../runner/runner.ts'
import { errorsOf } from './account.ts'

const REPO = resolve(import.meta.dirname, '../..')
const USER = 'molt_rehearsal'

/** The chain's URLs and inputs. */
export interface Mover {
  source: string
  target: string
  inputs: Record<string, string>
}

/** The application's role, with 15 write privileges. */
const APPLICATION = [
  'CREATE ROLE shop_app',
  'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE customers, orders, order_items, payments, reviews TO shop_app',
]

const DEFER = 'indexes,constraints'

/** @throws UserError with the reason from `prepare` when it cannot print the grants */
export async function grantAsPrinted(
  admin: { source: string; target: string },
  folder: string,
  signal: AbortSignal,
): Promise<Mover> {
  await runAlone(admin.target, 'target', APPLICATION)
  const printed = await runAction({
    dir: join(REPO, 'actions', 'prepare'),
    repo: REPO,
    inputs: {
      ...admin,
      grants: 'print',
      'migration-user': USER,
      defer: DEFER,
      'allow-insecure': 'true',
    },
    workDir: join(folder, 'grants'),
    secrets: [admin.source, admin.target],
    signal,
  })
  if (printed.conclusion !== 'success')
    throw new UserError('preflight.blocked', printed.steps.flatMap(errorsOf).join('; '))
  const password = randomBytes(16).toString('hex')
  for (const side of ['source', 'target'] as const) {
    const sql = readFileSync(printed.outputs[`grants-${side}`] as string, 'utf8')
    const statements = split(sql.replace('WRITE A PASSWORD HERE', password)).map((each) => each.sql)
    await runAlone(admin[side], side, statements)
  }
  return {
    source: withLogin(admin.source, USER, password),
    target: withLogin(admin.target, USER, password),
    inputs: { defer: DEFER },
  }
}

async function runAlone(url: string, side: 'source' | 'target', statements: readonly string[]): Promise<void> {
  await withDatabase(url, side, async (db) => {
    for (const sql of statements) await db.query(sql)
  })
}
