// A live application for rehearsals: transactions that insert, update and delete at a steady rate. When writes are
// refused, it behaves like a well-written client: rolls back, waits a little, and retries.
import { randomInt, randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { WAREHOUSES } from './shop.ts'

export const DEFAULT_RATE = 250

/** The connections' `application_name`. */
export const LOAD_APPLICATION = 'molt-actions rehearsal load'

interface LoadCounters {
  /** Committed transactions. */
  transactions: number
  /** Rows inserted, updated or deleted by committed transactions. */
  rows: number
  /** Attempts refused with 25006, the fence's error code. */
  refused: number
  /** Attempts that failed because the connection could not be opened or was lost. */
  disconnected: number
  /** Attempts that the database asked to retry: deadlock, serialization failure, lock timeout. */
  retries: number
  /** Transactions abandoned after any other error, which is passed to `onError`. */
  errors: number
}

export interface LoadHandle {
  readonly counters: Readonly<LoadCounters>
  /**
   * Write pauses that the application saw, in milliseconds: from the start of the first attempt that was refused or
   * lost its connection, to the first commit of an attempt started after that. Excludes an unfinished pause.
   */
  readonly pausesMs: readonly number[]
  /** Milliseconds since the current pause began; undefined outside a pause. */
  readonly pausedForMs: number | undefined
  /**
   * Continues in another database, as if the connection string had changed. Resolves when the old database is no longer
   * used.
   */
  switchTo(url: string): Promise<void>
  /** Lets transactions in flight finish (drops refused ones) and closes the connections. */
  stop(): Promise<void>
}

export interface LoadOptions {
  url: string
  /** Transactions per second over all connections. Default: 250. */
  rate?: number
  /** Number of connections. Default: 6. */
  connections?: number
  /** Whether to avoid empty strings, which molt before 1.0 loads as NULL. Only for the shop. */
  plain?: boolean
  /** Called with the error of each transaction that was abandoned. */
  onError?: (error: Error) => void
}

export interface GenericLoadOptions extends LoadOptions {
  schema: string
  tables: readonly string[]
}

/** Runs one transaction's work and returns how many rows it changed. A retry calls it again with the same values. */
type Transaction = (client: pg.Client) => Promise<number>

/** Simulates the shop's customers: orders, payments, reviews, carts. Requires the tables of `shop.ts`, in any state. */
export async function startLoad(options: LoadOptions): Promise<LoadHandle> {
  const known = await once(options.url, whatIsThere)
  if (options.plain) known.texts = TEXTS.filter((text) => text !== '')
  return run(options, () => pick(SHOP_MIX)(known))
}

/**
 * Starts harmless updates in a user's database. They set a column to its own value, which writes to the WAL but changes
 * no data. Skips tables where that could have side effects: without a primary key or another column, or with triggers.
 * Throws if no table is left.
 */
export async function startGenericLoad(options: GenericLoadOptions): Promise<LoadHandle> {
  const updates = await once(options.url, (client) => harmlessUpdates(client, options.schema, options.tables))
  if (updates.length === 0)
    throw new Error(
      `No table of schema "${options.schema}" allows a harmless update: each is empty, has only wide rows, no primary ` +
        'key, no other column, or triggers. Leave out --rate and let your application be the load.',
    )
  return run(options, () => {
    const { text, keys } = pick(updates)
    const key = pick(keys)
    return (client) => changed(client, text, key)
  })
}

/** Milliseconds for a transaction in flight to finish before its connection is dropped. */
const DRAIN_MS = 3000

interface Connection {
  client: pg.Client
  url: string
  broken: boolean
}

function run(options: LoadOptions, next: () => Transaction): LoadHandle {
  const { rate = DEFAULT_RATE, connections = 6, onError = () => {} } = options
  const counters = { transactions: 0, rows: 0, refused: 0, disconnected: 0, retries: 0, errors: 0 }
  const pausesMs: number[] = []
  const stopping = new AbortController()
  const open = new Set<Connection>()
  let url = options.url
  let pause: { begun: number; seen: number } | undefined
  let lastPauseEnd = 0

  /** Waits for this transaction's turn. Catches up on delays of at most 1 s. */
  let beat = performance.now()
  async function pace() {
    const now = performance.now()
    beat = Math.max(beat + 1000 / rate, now - 1000)
    if (beat > now) await rest(beat - now)
  }
  const rest = (ms: number) => sleep(ms, undefined, { signal: stopping.signal }).catch(() => {})

  function accepted(begun: number, rows: number) {
    counters.transactions++
    counters.rows += rows
    // An attempt started before the first refusal does not show that writes are accepted again.
    if (!pause || begun < pause.seen) return
    lastPauseEnd = performance.now()
    pausesMs.push(lastPauseEnd - pause.begun)
    pause = undefined
  }

  function held(begun: number) {
    // A late refusal belongs to the pause that has just ended.
    if (begun >= lastPauseEnd) pause ??= { begun, seen: performance.now() }
  }

  async function connect(): Promise<Connection> {
    const client = newClient(url)
    const connection = { client, url, broken: false }
    client.on('error', () => {
      connection.broken = true
    })
    open.add(connection)
    try {
      await client.connect()
    } catch (error) {
      open.delete(connection)
      throw error
    }
    return connection
  }

  async function close(connection: Connection | undefined) {
    if (!connection) return
    await connection.client.end().catch(() => {})
    open.delete(connection)
  }

  async function worker() {
    let connection: Connection | undefined
    async function attempt(transaction: Transaction) {
      if (connection?.broken || (connection && connection.url !== url)) {
        await close(connection)
        connection = undefined
      }
      connection ??= await connect()
      return transaction(connection.client)
    }

    /**
     * Retries until the transaction is committed or abandoned because of its own error, or until the load is stopped.
     */
    async function persist(transaction: Transaction) {
      for (let wait = 4; !stopping.signal.aborted; wait = Math.min(wait * 2, 20)) {
        const begun = performance.now()
        try {
          return accepted(begun, await attempt(transaction))
        } catch (error) {
          const kind = kindOf(error)
          counters[kind]++
          if (kind === 'errors') return onError(error as Error)
          if (kind === 'disconnected' && connection) connection.broken = true
          if (kind !== 'retries') held(begun)
        }
        await rest(wait)
      }
    }

    while (!stopping.signal.aborted) {
      await pace()
      if (!stopping.signal.aborted) await persist(next())
    }
    await close(connection)
  }

  /** Waits until workers have closed these connections. Drops those that a hanging query keeps open. */
  async function drained(which: (connection: Connection) => boolean) {
    const deadline = performance.now() + DRAIN_MS
    for (;;) {
      const left = [...open].filter(which)
      if (left.length === 0) return
      if (performance.now() > deadline) for (const each of left) cut(each.client)
      await sleep(5)
    }
  }

  const workers = Promise.all(Array.from({ length: connections }, worker))

  return {
    counters,
    pausesMs,
    get pausedForMs() {
      return pause && performance.now() - pause.begun
    },
    async switchTo(newUrl) {
      url = newUrl
      await drained((connection) => connection.url !== newUrl)
    },
    async stop() {
      stopping.abort()
      await drained(() => true)
      await workers
    },
  }
}

function kindOf(error: unknown): 'refused' | 'disconnected' | 'retries' | 'errors' {
  const { code = '', message = '' } = error as { code?: string; message?: string }
  if (code === '25006') return 'refused'
  if (['40001', '40P01', '55P03'].includes(code)) return 'retries'
  if (/^(08|57P0|53300)/.test(code)) return 'disconnected'
  const lost = /^(ECONN|EPIPE|ETIMEDOUT|EHOST|ENET)/.test(code) || /terminated|not queryable|timeout exp/i.test(message)
  return lost && !(error instanceof pg.DatabaseError) ? 'disconnected' : 'errors'
}

function newClient(connectionString: string) {
  return new pg.Client({ connectionString, application_name: LOAD_APPLICATION, connectionTimeoutMillis: 5000 })
}

/** Drops a connection: `end` would wait for the hanging query. */
function cut(client: pg.Client) {
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } }
  connection.stream.destroy()
}

async function once<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = newClient(url)
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function changed(client: pg.Client, text: string, values: unknown[] = []) {
  return (await client.query(text, values)).rowCount ?? 0
}

async function inTransaction<T>(client: pg.Client, work: () => Promise<T>): Promise<T> {
  await client.query('BEGIN')
  try {
    const result = await work()
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {})
    throw error
  }
}

function pick<T>(list: readonly T[]): T {
  if (list.length === 0) throw new RangeError('Nothing to choose from.')
  return list[randomInt(list.length)] as T
}

// The shop's transactions. They find rows only by primary key, because a target has no other index during the load.
// They never change a key, because the stream would then leave the old row behind.

/** Existing keys: the highest id of tables whose ids have almost no gaps, and lists for the rest. */
interface Known {
  customers: number
  products: number
  orders: number
  notes: number
  reviews: number
  /** Reviews and cart lines that can be deleted. */
  ownReviews: string[]
  texts: readonly (string | null)[]
  cartLines: [session: string, product: string][]
}

async function whatIsThere(client: pg.Client): Promise<Known> {
  const { rows } = await client.query(`SELECT (SELECT max(id) FROM customers) AS customers,
    (SELECT max(id) FROM products) AS products, (SELECT max(id) FROM orders) AS orders,
    (SELECT max(id) FROM reviews) AS reviews, (SELECT max("noteId") FROM "OrderNotes") AS notes`)
  const { customers, products, orders, reviews, notes } = rows[0]
  if (!(customers && products && orders))
    throw new Error('The shop has no customers, products or orders. Seed it before you start the load.')
  const cart = await client.query('SELECT session, product_id FROM cart_items LIMIT 1000')
  return {
    customers: Number(customers),
    products: Number(products),
    orders: Number(orders),
    reviews: Number(reviews),
    notes: Number(notes),
    texts: TEXTS,
    ownReviews: [],
    cartLines: cart.rows.map((row) => [row.session, row.product_id]),
  }
}

const TEXTS = [
  '',
  'fine',
  'it\'s "so-so"',
  'two\nlines',
  'back\\slash \\N',
  'tab\there',
  'naïve — 東京 🐘',
  'NULL',
  null,
]

/** A random number from 1 to max, inclusive. */
const upTo = (max: number) => randomInt(1, Math.max(1, max) + 1)
const cents = (max: number) => (randomInt(max * 100) / 100).toFixed(2)

function placeOrder(known: Known): Transaction {
  const customer = upTo(known.customers)
  const products = [...new Set(Array.from({ length: upTo(3) }, () => upTo(known.products)))].sort((a, b) => a - b)
  const [total, coupon, warehouse] = [cents(5000), pick(known.texts), pick(WAREHOUSES)]
  return (client) =>
    inTransaction(client, async () => {
      const order = await client.query(
        'INSERT INTO orders (customer_id, total, coupon, metadata) VALUES ($1, $2, $3, $4) RETURNING id',
        [customer, total, coupon, JSON.stringify({ utm: coupon, basket: products.length })],
      )
      const items = await changed(
        client,
        `INSERT INTO order_items (order_id, line, product_id, quantity, unit_price, gift_text)
         SELECT $1, line, product, 1, 9.90, $3 FROM unnest($2::bigint[]) WITH ORDINALITY AS t (product, line)`,
        [order.rows[0].id, products, coupon],
      )
      const stock = await changed(
        client,
        `UPDATE inventory SET quantity = quantity - 1, counted_at = clock_timestamp()
         WHERE product_id = ANY ($1) AND warehouse = $2`,
        [products, warehouse],
      )
      return 1 + items + stock
    })
}

function payOrder(known: Known): Transaction {
  const [order, amount, id, reference] = [upTo(known.orders), cents(5000), randomUUID(), pick(known.texts)]
  return (client) =>
    inTransaction(client, async () => {
      const paid = await changed(client, "UPDATE orders SET status = 'paid' WHERE id = $1", [order])
      if (paid === 0) return 0
      const payment = await changed(
        client,
        `INSERT INTO payments (id, "order", method, amount, fee, reference, response, captured_at)
         VALUES ($1, $2, 'card', $3, 0.250, $4, $5, clock_timestamp())`,
        [id, order, amount, reference, JSON.stringify({ ok: true, text: reference })],
      )
      return paid + payment
    })
}

function shipOrder(known: Known): Transaction {
  const order = upTo(known.orders)
  return (client) =>
    changed(client, "UPDATE orders SET status = 'shipped', shipped_at = clock_timestamp() WHERE id = $1", [order])
}

function updateCustomer(known: Known): Transaction {
  const [customer, phone, tag] = [
    upTo(known.customers),
    pick(['+32 2 5550000', ...(known.texts.includes('') ? [''] : []), null]),
    pick(known.texts),
  ]
  return (client) =>
    changed(
      client,
      `UPDATE customers SET phone = $2, tags = $3, updated_at = clock_timestamp(),
         settings = coalesce(settings, '{}'::jsonb) || $4::jsonb WHERE id = $1`,
      [customer, phone, [tag, 'seen'], JSON.stringify({ last: tag, visits: customer % 10 })],
    )
}

function changePrice(known: Known): Transaction {
  const [product, price] = [upTo(known.products), cents(900)]
  return (client) => changed(client, 'UPDATE products SET price = $2 WHERE id = $1', [product, price])
}

function addReview(known: Known): Transaction {
  const [title, body] = [pick(known.texts), pick(known.texts) ?? '-']
  const values = [
    upTo(known.products),
    upTo(known.customers),
    'live',
    upTo(5),
    title,
    body,
    [upTo(9), known.texts.includes('') ? -1 : 1],
  ]
  return async (client) => {
    const { rows } = await client.query(
      `INSERT INTO reviews (product_id, customer_id, "user", rating, title, body, votes)
       VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`,
      values,
    )
    known.ownReviews.push(rows[0].id)
    return 1
  }
}

function deleteReview(known: Known): Transaction {
  const id = known.ownReviews.length > 20 ? known.ownReviews.shift() : upTo(known.reviews)
  return (client) => changed(client, 'DELETE FROM reviews WHERE id = $1', [id])
}

function addToCart(known: Known): Transaction {
  const line: [string, string] = [randomUUID(), String(upTo(known.products))]
  return async (client) => {
    const rows = await changed(client, 'INSERT INTO cart_items (session, product_id) VALUES ($1, $2)', line)
    known.cartLines.push(line)
    return rows
  }
}

function removeFromCart(known: Known): Transaction {
  const line = known.cartLines.shift()
  if (!line) return addToCart(known)
  return (client) => changed(client, 'DELETE FROM cart_items WHERE session = $1 AND product_id = $2', line)
}

function addNote(known: Known): Transaction {
  const values = [upTo(known.orders), pick(['Agent 1', null]), pick(known.texts) ?? '-']
  return (client) => changed(client, 'INSERT INTO "OrderNotes" ("orderId", "Author", body) VALUES ($1, $2, $3)', values)
}

function editNote(known: Known): Transaction {
  const [note, body] = [upTo(known.notes), pick(known.texts) ?? '-']
  return (client) => changed(client, 'UPDATE "OrderNotes" SET body = $2 WHERE "noteId" = $1', [note, body])
}

/** Share of each kind of transaction, in percent. */
const SHOP_MIX = (
  [
    [22, placeOrder],
    [14, payOrder],
    [14, shipOrder],
    [14, updateCustomer],
    [4, changePrice],
    [7, addReview],
    [4, deleteReview],
    [8, addToCart],
    [6, removeFromCart],
    [4, addNote],
    [3, editNote],
  ] as const
).flatMap(([share, transaction]) => Array.from({ length: share }, () => transaction))

// Harmless updates of the user's tables.

interface HarmlessUpdate {
  text: string
  keys: string[][]
}

async function harmlessUpdates(client: pg.Client, schema: string, tables: readonly string[]) {
  const { rows } = await client.query<{ table: string; keys: { name: string; type: string }[]; column: string }>(
    `SELECT c.relname AS "table", k.keys, (
       SELECT a.attname FROM pg_attribute a
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (i.indkey::int2[])
         AND a.attgenerated = '' AND a.attidentity <> 'a'
       ORDER BY a.attlen > 0 DESC, a.attnum LIMIT 1) AS "column"
     FROM pg_class c
     JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
     CROSS JOIN LATERAL (
       SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod))) AS keys
       FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])) k
     WHERE c.relnamespace = $1::regnamespace AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p')
       AND NOT EXISTS (
         SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
           AND p.pronamespace IS DISTINCT FROM to_regnamespace('molt_actions'))`,
    [pg.escapeIdentifier(schema), tables],
  )
  const updates: HarmlessUpdate[] = []
  for (const { table, keys, column } of rows) {
    if (!column) continue
    const name = `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(table)}`
    const names = keys.map((key) => pg.escapeIdentifier(key.name))
    // Updating a row that has an out-of-line value would stop the stream. Rows this short have none.
    const sample = await client.query<string[]>({
      text: `SELECT ${names.map((key) => `${key}::text`).join(', ')} FROM (SELECT * FROM ${name} LIMIT 10000) AS t
        WHERE pg_column_size(t) < 1800 LIMIT 1000`,
      rowMode: 'array',
    })
    if (sample.rows.length === 0) continue
    const matches = keys.map((key, at) => `${names[at]} = $${at + 1}::${key.type}`)
    const set = pg.escapeIdentifier(column)
    updates.push({ text: `UPDATE ${name} SET ${set} = ${set} WHERE ${matches.join(' AND ')}`, keys: sample.rows })
  }
  return updates
}
