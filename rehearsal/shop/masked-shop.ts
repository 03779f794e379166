// The sample shop grown to 20 tables, with personal data that `mask` must find and remove.
import { randomBytes } from 'node:crypto'
import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setImmediate as nextTick } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { ident, qualified, withDatabase } from '../../src/runtime/database.ts'
import { type JobResult, type LogLine, runAction } from '../runner/runner.ts'
import { createShop, SHOP_TABLES, shopCounts } from './shop.ts'

export const GROWN_ROWS = 1_000_000

/** The masking rules for this shop. */
export const MASK_RULES = fileURLToPath(new URL('../../examples/mask.yml', import.meta.url))

/** Every table of the grown shop, parents before children. */
export const GROWN_TABLES = [
  ...SHOP_TABLES,
  'profiles',
  'cards',
  'employees',
  'shipments',
  'subscribers',
  'tickets',
  'comments',
  'login_history',
  'audit_log',
] as const

/** Planted in names, addresses, free text, documents, arrays and bytes. None may survive in what `mask` writes. */
export const CANARIES = [
  'Zaphira Canaryworth',
  'zaphira.canary@bluebottle-mail.net',
  'Quellenhofgasse 77b',
  '4929123456789017',
  '+4915799988877',
  'CANARY-7f3a91c2',
]

/**
 * Texts that occur in many of the shop's rows. The action masks the canaries in its log, but it does not know these
 * texts, so their absence proves that the log leaks nothing.
 */
export const WITNESSES = ['Janssens', 'Kowalski', '@mail.be', '@shop.example.com']

const DDL = `
CREATE TABLE profiles (
  customer_id bigint PRIMARY KEY REFERENCES customers,
  profile jsonb NOT NULL,
  nicknames text[],
  avatar bytea
);
CREATE TABLE cards (
  id bigserial PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers,
  holder varchar(60) NOT NULL,
  number varchar(19) NOT NULL,
  iban varchar(34),
  expires date NOT NULL
);
CREATE TABLE employees (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  manager_id bigint,
  email varchar(80) NOT NULL UNIQUE,
  first_name text NOT NULL,
  last_name text NOT NULL,
  ssn varchar(11) NOT NULL,
  born date NOT NULL,
  hired date NOT NULL,
  salary numeric(10,2) NOT NULL CHECK (salary > 0),
  department text NOT NULL
);
CREATE TABLE shipments (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  order_id bigint NOT NULL REFERENCES orders,
  recipient text NOT NULL,
  phone varchar(24),
  street text NOT NULL,
  city text NOT NULL,
  postal_code varchar(10) NOT NULL,
  tracking uuid NOT NULL UNIQUE,
  sent_at timestamptz
);
CREATE TABLE subscribers (
  email varchar(120) PRIMARY KEY,
  name text,
  confirmed boolean NOT NULL DEFAULT false
);
CREATE TABLE tickets (
  id bigserial PRIMARY KEY,
  customer_email text NOT NULL,
  subject text NOT NULL,
  body text NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE comments (
  id bigserial PRIMARY KEY,
  subject_type text NOT NULL,
  subject_id text NOT NULL,
  body text NOT NULL
);
CREATE TABLE login_history (
  id bigserial PRIMARY KEY,
  customer_id bigint NOT NULL,
  ip text NOT NULL,
  user_agent text,
  at timestamptz NOT NULL
);
CREATE TABLE audit_log (
  id bigserial PRIMARY KEY,
  actor varchar(80) NOT NULL,
  entity text NOT NULL,
  entity_id bigint NOT NULL,
  change jsonb,
  at timestamptz NOT NULL
);
`

const CONSTRAINTS = `
ALTER TABLE employees ADD FOREIGN KEY (manager_id) REFERENCES employees;
CREATE INDEX tickets_customer_email_idx ON tickets (customer_email);
CREATE INDEX comments_subject_idx ON comments (subject_type, subject_id);
CREATE INDEX login_history_customer_id_idx ON login_history (customer_id);
CREATE INDEX shipments_order_id_idx ON shipments (order_id);
CREATE INDEX cards_customer_id_idx ON cards (customer_id);
`

const [NAME, EMAIL, STREET, CARD, PHONE, TOKEN] = CANARIES as [string, string, string, string, string, string]

const FIRST = `(ARRAY['Anna','Bram','Chloé','David','Emma','Finn','Grete','Hugo','Inès','Jan','Katrin','Lucas'])`
const LAST = `(ARRAY['Janssens','Peeters','Müller','Dubois','Rossi','Novák','Silva','Larsen','Kowalski','Smith'])`
const name = (n: string) => `${FIRST}[1 + ${n} % 12] || ' ' || ${LAST}[1 + ${n} / 12 % 10] || ' ' || ${n} % 9973`

function statements(rows: number, customers: number, orders: number, products: number): string[] {
  const share = (part: number) => Math.ceil(rows * part)
  const people = share(0.002)
  const [profiles, subscribers] = [Math.min(customers, share(0.02)), share(0.02)]
  // The stock of every store. Like most rows in most databases, it has no personal data.
  const stores = Math.ceil(share(0.18) / products)
  return [
    `INSERT INTO inventory
     SELECT n, 'Store ' || store, n * 7 % 90, CASE WHEN n % 2 = 0 THEN now() - n * interval '5 minutes' END
     FROM generate_series(1, ${products}) n, generate_series(1, ${stores}) store`,
    `INSERT INTO profiles
     SELECT n, jsonb_build_object('email', CASE n WHEN 7 THEN '${EMAIL}' ELSE 'customer' || n || '@example.com' END,
         'name', CASE n WHEN 7 THEN '${NAME}' ELSE ${name('n')} END, 'theme', (ARRAY['dark','light'])[1 + n % 2],
         'phone', '+32 470 ' || lpad((n * 7919 % 1000000)::text, 6, '0'), 'age', 18 + n % 70,
         'address', jsonb_build_object('street', n % 300 || ' High Street', 'city', 'City ' || n % 997),
         'contacts', CASE n % 3 WHEN 0 THEN '[]' ELSE jsonb_build_array(jsonb_build_object('name', ${name('n + 5')},
           'email', CASE n WHEN 8 THEN '${EMAIL}' ELSE 'friend' || n || '@mail.be' END)) END)
         || CASE n % 4 WHEN 0 THEN '{}' ELSE jsonb_build_object('bio', 'Call me on +32 470 12 34 56, ' || ${name('n')}) END,
       CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['nick' || n, CASE n WHEN 7 THEN '${TOKEN}' END] END,
       CASE n % 10 WHEN 0 THEN convert_to(${name('n')} || CASE n WHEN 10 THEN ' ${NAME}' ELSE '' END, 'UTF8') END
     FROM generate_series(1, ${profiles}) n`,
    `INSERT INTO cards
     SELECT n, 1 + n * 7 % ${customers}, CASE n WHEN 3 THEN '${NAME}' ELSE ${name('n')} END,
       CASE n WHEN 3 THEN '${CARD}' ELSE CASE n % 5 WHEN 0 THEN '37' || lpad((n * 104729 % 10000000000000)::text, 13, '0')
         ELSE '4' || lpad((n * 15485863 % 1000000000000000)::text, 15, '0') END END,
       CASE WHEN n % 3 > 0 THEN 'BE' || lpad((n * 31 % 100000000000000)::text, 14, '0') END, date '2027-01-31' + (n % 1500)::int
     FROM generate_series(1, ${share(0.02)}::bigint) n`,
    `INSERT INTO employees (id, manager_id, email, first_name, last_name, ssn, born, hired, salary, department) OVERRIDING SYSTEM VALUE
     SELECT n, CASE WHEN n > 5 THEN 1 + n % 5 END, 'staff' || n || '@shop.example.com', ${FIRST}[1 + n % 12], ${LAST}[1 + n % 10],
       lpad((n * 37 % 899 + 1)::text, 3, '0') || '-' || lpad((n % 99 + 1)::text, 2, '0') || '-' || lpad(n::text, 4, '0'),
       date '1960-01-01' + (n * 37 % 15000)::int, date '2010-01-01' + (n * 13 % 5000)::int, 1800 + n * 97 % 6000,
       (ARRAY['sales','support','warehouse','finance'])[1 + (n % 7) / 2]
     FROM generate_series(1, ${people}) n`,
    `INSERT INTO shipments
     SELECT md5('shipment ' || n)::uuid, 1 + n * 3 % ${orders}, CASE n WHEN 11 THEN '${NAME}' ELSE ${name('n')} END,
       CASE n % 4 WHEN 0 THEN NULL ELSE CASE n WHEN 11 THEN '${PHONE}' ELSE '+32 4' || lpad((n * 7919 % 100000000)::text, 8, '0') END END,
       CASE n WHEN 11 THEN '${STREET}' ELSE n % 300 || ' Main Street' END, 'City ' || n % 997,
       lpad((n * 31 % 10000)::text, 4, '0'), md5('tracking ' || n)::uuid, CASE WHEN n % 6 > 0 THEN now() - n * interval '7 minutes' END
     FROM generate_series(1, ${share(0.04)}::bigint) n`,
    `INSERT INTO subscribers
     SELECT CASE n WHEN 5 THEN '${EMAIL}' ELSE 'customer' || n * 2 || '@example.com' END, CASE WHEN n % 3 > 0 THEN ${name('n')} END, n % 2 = 0
     FROM generate_series(1, ${subscribers}) n`,
    `INSERT INTO tickets
     SELECT n, 'customer' || 1 + n * 11 % ${customers} || '@example.com', 'Order ' || n, CASE n
         WHEN 9 THEN 'I am ${NAME}, write to ${EMAIL} or ${STREET}; card ${CARD}; ${TOKEN}'
         ELSE 'Dear shop, this is ' || ${name('n')} || ', reach me at friend' || n || '@mail.be or +32 470 12 34 56. ' || repeat('Where is my parcel? ', n::int % 9) END,
       now() - n * interval '11 minutes'
     FROM generate_series(1, ${share(0.03)}::bigint) n`,
    `INSERT INTO comments
     SELECT n, CASE n % 3 WHEN 0 THEN 'Order' WHEN 1 THEN 'Customer' ELSE 'Subscriber' END,
       CASE n % 3 WHEN 0 THEN (1 + n % ${orders})::text WHEN 1 THEN (1 + n % ${customers})::text
         ELSE 'customer' || 2 * (6 + n % ${Math.max(1, subscribers - 6)}) || '@example.com' END,
       'Spoke with ' || CASE n WHEN 13 THEN '${NAME}' ELSE ${name('n')} END
     FROM generate_series(1, ${share(0.03)}::bigint) n`,
    `INSERT INTO login_history
     SELECT n, 1 + n * 5 % ${customers}, '81.' || n % 250 || '.' || n % 249 || '.' || n % 248,
       CASE WHEN n % 5 > 0 THEN 'Browser/' || n % 40 END, now() - n * interval '3 minutes'
     FROM generate_series(1, ${share(0.1)}::bigint) n`,
    `INSERT INTO audit_log
     SELECT n, 'staff' || 1 + n % ${people} || '@shop.example.com', (ARRAY['orders','customers'])[1 + n % 2],
       1 + n % ${customers}, CASE WHEN n % 3 > 0 THEN jsonb_build_object('old', ${name('n')}, 'new', CASE n WHEN 1 THEN '${TOKEN}' ELSE ${name('n + 1')} END) END,
       now() - n * interval '2 minutes'
     FROM generate_series(1, ${share(0.06)}::bigint) n`,
    `SELECT setval('cards_id_seq', (SELECT max(id) FROM cards)), setval('employees_id_seq', (SELECT max(id) FROM employees)),
       setval('tickets_id_seq', (SELECT max(id) FROM tickets)), setval('comments_id_seq', (SELECT max(id) FROM comments)),
       setval('login_history_id_seq', (SELECT max(id) FROM login_history)), setval('audit_log_id_seq', (SELECT max(id) FROM audit_log))`,
    `UPDATE customers SET email = '${EMAIL}', full_name = '${NAME}', phone = '${PHONE}' WHERE id = 7`,
    `UPDATE reviews SET body = body || ' ${TOKEN}' WHERE id = 4`,
  ]
}

/** Creates the grown shop in an empty database, with at least `rows` rows (3,000 or more) in {@link GROWN_TABLES}. */
export async function createGrownShop(url: string, rows: number = GROWN_ROWS): Promise<void> {
  const base = Math.max(1000, Math.ceil(rows * 0.5))
  await createShop(url, { rows: base })
  const { customers, orders, products } = shopCounts(base)
  const client = new pg.Client({ connectionString: url })
  // Stopping the server fails the query. Without a listener, that would also end this process.
  client.on('error', () => {})
  await client.connect()
  try {
    await client.query(DDL)
    await client.query('BEGIN')
    for (const statement of statements(rows, customers, orders, products)) await client.query(statement)
    await client.query('COMMIT')
    await client.query(CONSTRAINTS)
    await client.query('SET default_statistics_target = 10; ANALYZE')
  } finally {
    await client.end()
  }
}

/**
 * Creates the target tables for a load: the same tables with only their keys, like `targetDdl` for the smaller shop.
 * @param whole includes the source's indexes and constraints, for the load to defer
 */
export async function createGrownTarget(url: string, whole = false): Promise<void> {
  await createShop(url, { schemaOnly: true, whole })
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(
      (whole ? DDL : DDL.replaceAll(/ REFERENCES \w+| UNIQUE/g, '')).replaceAll(
        'GENERATED ALWAYS AS IDENTITY',
        'GENERATED BY DEFAULT AS IDENTITY',
      ),
    )
    if (whole) await client.query(CONSTRAINTS)
  } finally {
    await client.end()
  }
}

const REPO = resolve(import.meta.dirname, '../..')

/** Result of `maskShop`: the job, and the files that must not contain a canary. */
export interface MaskedShop {
  job: JobResult
  /** The whole log, masked as on GitHub. */
  log: string
  evidence: string
}

/**
 * Masks the grown shop at `from` into the empty database at `to`, with the committed action.
 * @param folder gets `mask.json`
 */
export async function maskShop(
  { from, to, folder, signal }: { from: string; to: string; folder: string; signal?: AbortSignal },
  onLine: (line: LogLine) => void = () => {},
): Promise<MaskedShop> {
  const key = randomBytes(32).toString('hex')
  const evidence = join(folder, 'mask.json')
  let log = ''
  const job = await runAction({
    dir: join(REPO, 'actions/mask'),
    repo: REPO,
    inputs: {
      from,
      to,
      rules: MASK_RULES,
      evidence,
      'allow-target': decodeURIComponent(new URL(to).pathname.slice(1)),
      'allow-insecure': 'true',
    },
    env: { MOLT_MASK_KEY: key, MOLT_MASK_CANARIES: CANARIES.join('\n') },
    secrets: [key, ...CANARIES],
    ...(signal && { signal }),
    onLine: (line) => {
      log += `${line.text}\n`
      onLine(line)
    },
  })
  return { job, log, evidence }
}

/** One searched place: how much was searched, and the indexes of the texts found. */
export interface Search {
  place: string
  looked: string
  found: number[]
}

/** Searches every row of every table in every schema for texts. In bytea columns, searches for their hex digits too. */
export async function searchDatabase(place: string, url: string, needles: readonly string[]): Promise<Search> {
  return withDatabase(url, 'source', async (db) => {
    const tables = await db.query(
      `SELECT n.nspname AS schema, c.relname AS name, EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.atttypid = 'bytea'::regtype) AS bytes FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`,
    )
    const found = new Set<number>()
    let rows = 0
    for (const { schema, name, bytes } of tables.rows) {
      const looks = needles.map((_, at) => {
        const hex = bytes ? ` OR strpos(s.line, encode(convert_to($${at + 1}::text, 'UTF8'), 'hex')) > 0` : ''
        return `bool_or(strpos(s.line, $${at + 1}::text) > 0${hex}) AS ${ident(`${at}`)}`
      })
      const result = await db.query(
        `SELECT count(*)::int AS rows, ${looks.join(', ')} FROM (SELECT t::text AS line FROM ${qualified(schema, name)} t OFFSET 0) s`,
        [...needles],
      )
      rows += result.rows[0].rows
      for (const at of needles.keys()) if (result.rows[0][`${at}`]) found.add(at)
    }
    return {
      place,
      looked: `${count(rows)} rows in ${tables.rows.length} tables`,
      found: [...found].sort((a, b) => a - b),
    }
  })
}

/**
 * Searches the bytes of files, and of all files in folders, for texts. With `enough`, stops once all texts are found.
 */
export async function searchFiles(
  place: string,
  paths: readonly string[],
  needles: readonly string[],
  { enough = false, signal }: { enough?: boolean; signal?: AbortSignal } = {},
): Promise<Search> {
  const found = new Set<number>()
  let [files, bytes] = [0, 0]
  for (const file of paths.flatMap(filesOf)) {
    await nextTick()
    signal?.throwIfAborted()
    if (enough && found.size === needles.length) break
    files++
    bytes += searchFile(file, needles, found)
  }
  return {
    place,
    looked: `${count(files)} files, ${count(bytes / 2 ** 20)} MiB`,
    found: [...found].sort((a, b) => a - b),
  }
}

/** Searches texts in memory. */
export function searchTexts(place: string, texts: readonly string[], needles: readonly string[]): Search {
  const characters = texts.reduce((sum, text) => sum + text.length, 0)
  const found = [...needles.keys()].filter((at) => texts.some((text) => text.includes(needles[at] as string)))
  return { place, looked: `${count(characters)} characters`, found }
}

function filesOf(path: string): string[] {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat?.isFile()) return [path]
  if (!stat?.isDirectory()) return []
  return readdirSync(path).flatMap((name) => filesOf(join(path, name)))
}

const PIECE = 8 << 20

/**
 * Searches in chunks, which overlap because a text can span a boundary. A file that no longer exists counts as empty.
 */
function searchFile(file: string, needles: readonly string[], found: Set<number>): number {
  const wanted = needles.map((needle) => Buffer.from(needle))
  const overlap = Math.max(...wanted.map(({ length }) => length)) - 1
  let [kept, bytes] = [0, 0]
  try {
    const descriptor = openSync(file, 'r')
    const size = Math.min(PIECE, fstatSync(descriptor).size) + overlap + 1
    const buffer = Buffer.alloc(size)
    for (;;) {
      const read = readSync(descriptor, buffer, kept, size - kept, null)
      if (!read) break
      bytes += read
      const text = buffer.subarray(0, kept + read)
      for (const [at, needle] of wanted.entries()) if (!found.has(at) && text.includes(needle)) found.add(at)
      kept = Math.min(overlap, text.length)
      buffer.copyWithin(0, text.length - kept, text.length)
    }
    closeSync(descriptor)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  return bytes
}

function count(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 1 })
}
