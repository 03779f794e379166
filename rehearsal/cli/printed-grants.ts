// `--printed-grants`: the chain as migration roles that have exactly what `grants: print` writes, on a target as a live
// application leaves it: roles that may write, unique indexes, checks and foreign keys.
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

/** Two unique indexes, three foreign keys and the three checks that the tables have: 8 objects. And 15 rights to write. */
const APPLICATION = [
  'CREATE UNIQUE INDEX customers_email_key ON customers (email)',
  'CREATE UNIQUE INDEX products_sku_key ON products (sku)',
  'CREATE INDEX orders_customer_id_idx ON orders (customer_id, placed_at DESC)',
  'ALTER TABLE orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (id)',
  'ALTER TABLE order_items ADD CONSTRAINT order_items_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders (id)',
  'ALTER TABLE reviews ADD CONSTRAINT reviews_product_id_fkey FOREIGN KEY (product_id) REFERENCES products (id)',
  'CREATE ROLE shop_app',
  'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE customers, orders, order_items, payments, reviews TO shop_app',
]

const DEFER = 'indexes,constraints'

/** @throws UserError when the grants cannot be printed, with what `prepare` says */
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
