// The sample shop: a small database with the features of real ones, and values that are easily lost.
import pg from 'pg'
import { literal } from '../../src/runtime/database.ts'

export const DEFAULT_ROWS = 300_000

/** Every table of the shop as the catalog spells it, parents before children. */
export const SHOP_TABLES = [
  'customers',
  'addresses',
  'categories',
  'products',
  'inventory',
  'orders',
  'order_items',
  'payments',
  'reviews',
  'cart_items',
  'OrderNotes',
] as const
export type ShopTable = (typeof SHOP_TABLES)[number]

/** Every sequence of the shop, with the same names on both sides. Only `invoice_numbers` has no owner column. */
export const SHOP_SEQUENCES = [
  'customers_id_seq',
  'addresses_id_seq',
  'products_id_seq',
  'orders_id_seq',
  'reviews_id_seq',
  'OrderNotes_noteId_seq',
  'invoice_numbers',
] as const

/** The shop's tables. `key` sets how a bigint key gets its values, which differs between the two sides. */
const tables = (key: (table: ShopTable, column: string) => string) => `
CREATE TYPE order_status AS ENUM ('pending', 'paid', 'shipped', 'delivered', 'cancelled');

CREATE SEQUENCE invoice_numbers START WITH 100000;

CREATE TABLE customers (
  id ${key('customers', 'id')} PRIMARY KEY,
  email text NOT NULL,
  full_name text NOT NULL,
  phone varchar(32),
  birthday date,
  tags text[] NOT NULL DEFAULT '{}',
  settings jsonb,
  newsletter boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz
);

CREATE TABLE addresses (
  id ${key('addresses', 'id')} PRIMARY KEY,
  customer_id bigint NOT NULL,
  line1 text NOT NULL,
  line2 text,
  city text NOT NULL,
  postal_code varchar(16),
  country varchar(2) NOT NULL,
  latitude double precision,
  longitude double precision
);

CREATE TABLE categories (
  id integer PRIMARY KEY,
  parent_id integer,
  name text NOT NULL
);

CREATE TABLE products (
  id ${key('products', 'id')} PRIMARY KEY,
  sku text NOT NULL,
  category_id integer,
  name text NOT NULL,
  description text,
  price numeric(12,2) NOT NULL CHECK (price >= 0),
  weight_kg numeric(10,3),
  size_mm integer[],
  attributes jsonb NOT NULL DEFAULT '{}',
  image_hash bytea,
  discontinued_at timestamptz
);

CREATE TABLE inventory (
  product_id bigint NOT NULL,
  warehouse text NOT NULL,
  quantity integer NOT NULL,
  counted_at timestamptz,
  PRIMARY KEY (product_id, warehouse)
);

CREATE TABLE orders (
  id ${key('orders', 'id')} PRIMARY KEY,
  customer_id bigint NOT NULL,
  invoice bigint NOT NULL DEFAULT nextval('invoice_numbers'),
  status order_status NOT NULL DEFAULT 'pending',
  total numeric(14,2) NOT NULL,
  coupon text,
  metadata jsonb,
  placed_at timestamptz NOT NULL DEFAULT now(),
  shipped_at timestamptz
);

CREATE TABLE order_items (
  order_id bigint NOT NULL,
  line integer NOT NULL,
  product_id bigint NOT NULL,
  quantity integer NOT NULL CHECK (quantity > 0),
  unit_price numeric(12,2) NOT NULL,
  discount numeric(5,4),
  gift_text text,
  PRIMARY KEY (order_id, line)
);

CREATE TABLE payments (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "order" bigint NOT NULL,
  method text NOT NULL,
  amount numeric(14,2) NOT NULL,
  fee numeric,
  reference text,
  response jsonb,
  captured_at timestamptz
);

CREATE TABLE reviews (
  id ${key('reviews', 'id')} PRIMARY KEY,
  product_id bigint NOT NULL,
  customer_id bigint NOT NULL,
  "user" text,
  rating smallint NOT NULL CHECK (rating BETWEEN 1 AND 5),
  title text,
  body text NOT NULL,
  votes integer[],
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE cart_items (
  session uuid NOT NULL,
  product_id bigint NOT NULL,
  quantity integer NOT NULL DEFAULT 1,
  added_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (session, product_id)
);

CREATE TABLE "OrderNotes" (
  "noteId" ${key('OrderNotes', 'noteId')} PRIMARY KEY,
  "orderId" bigint NOT NULL,
  "Author" text,
  body text NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now()
);
`

/** Added to the source after its rows, because that is faster. A target has none of them during the load. */
export const SOURCE_CONSTRAINTS = `
ALTER TABLE customers ADD CONSTRAINT customers_email_key UNIQUE (email);
ALTER TABLE products ADD CONSTRAINT products_sku_key UNIQUE (sku);

ALTER TABLE addresses ADD FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;
ALTER TABLE categories ADD FOREIGN KEY (parent_id) REFERENCES categories;
ALTER TABLE products ADD FOREIGN KEY (category_id) REFERENCES categories;
ALTER TABLE inventory ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders, ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE payments ADD FOREIGN KEY ("order") REFERENCES orders;
ALTER TABLE reviews ADD FOREIGN KEY (product_id) REFERENCES products, ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE cart_items ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE "OrderNotes" ADD FOREIGN KEY ("orderId") REFERENCES orders ON DELETE CASCADE;

CREATE INDEX addresses_customer_id_idx ON addresses (customer_id);
CREATE INDEX products_category_id_idx ON products (category_id);
CREATE INDEX orders_customer_id_idx ON orders (customer_id, placed_at DESC);
CREATE INDEX orders_open_idx ON orders (placed_at) WHERE status IN ('pending', 'paid');
CREATE INDEX order_items_product_id_idx ON order_items (product_id);
CREATE INDEX payments_order_idx ON payments ("order");
CREATE INDEX reviews_product_id_idx ON reviews (product_id);
CREATE INDEX customers_lower_email_idx ON customers (lower(email));
CREATE INDEX "OrderNotes_orderId_idx" ON "OrderNotes" ("orderId");
`

/** A mix of serial and both kinds of identity columns, as after years of schema changes. */
const SOURCE_KEYS: Partial<Record<ShopTable, string>> = {
  customers: 'bigint GENERATED BY DEFAULT AS IDENTITY',
  addresses: 'bigint GENERATED ALWAYS AS IDENTITY',
}

const sourceTables = () => tables((table) => SOURCE_KEYS[table] ?? 'bigserial')

/**
 * The target's tables with the same columns and sequences, ready for a load: no foreign keys, no indexes or unique
 * constraints besides the primary keys, and no GENERATED ALWAYS, which would stop the stream.
 */
const targetDdl = () => {
  const sequenceOf = (table: string, column: string) => `"${table}_${column}_seq"`
  const keys: [string, string][] = []
  const ddl = tables((table, column) => {
    keys.push([table, column])
    return `bigint DEFAULT nextval('${sequenceOf(table, column)}')`
  })
  const created = keys.map((key) => `CREATE SEQUENCE ${sequenceOf(...key)};\n`)
  const owned = keys.map((key) => `ALTER SEQUENCE ${sequenceOf(...key)} OWNED BY "${key[0]}"."${key[1]}";\n`)
  return [...created, ddl, ...owned].join('')
}

/** Number of rows that `seed(client, rows)` inserts into each table; at least `rows` in total. */
export function shopCounts(rows: number = DEFAULT_ROWS): Record<ShopTable, number> {
  const share = (part: number) => Math.ceil(rows * part)
  const products = share(0.02)
  const orders = share(0.17)
  return {
    customers: share(0.09),
    addresses: share(0.11),
    categories: 40,
    products,
    inventory: products * WAREHOUSES.length,
    orders,
    // One to three lines per order: 1 + order % 3.
    order_items: orders + Math.floor((orders + 2) / 3) + 2 * Math.floor((orders + 1) / 3),
    payments: Math.ceil(orders * 0.88),
    reviews: share(0.03),
    cart_items: share(0.02),
    OrderNotes: share(0.02),
  }
}

/** Values of the second key column of `inventory`. */
export const WAREHOUSES = ['Antwerpen', "Côte d'Or", '東京']

/** Values that text formats lose or change. Each column cycles through them. */
const AWKWARD_TEXTS = [
  "E''",
  "E'it''s \"quoted\"'",
  "E'two\\nlines'",
  "E'back\\\\slash \\\\n \\\\'",
  "E'tab\\there'",
  "'naïve café — 東京 🐘🧑‍🚀'",
  "E'\\\\N'",
  "'NULL'",
  "' spaces around '",
  "E'carriage\\r\\nreturn'",
  "'a,b;{c}%s $1 \\x00'",
  'NULL',
  "'plain'",
]

/** SQL expression that cycles through the awkward texts as `n` grows. It can be NULL. */
const awkward = (n: string) => `(ARRAY[${AWKWARD_TEXTS.join(', ')}])[1 + ${n} % ${AWKWARD_TEXTS.length}]`

/** SQL expression for timestamps with microseconds, `seconds` apart. */
const moment = (n: string, seconds: number) =>
  `timestamptz '2023-02-28 23:59:59.999999+00' + ${n} * interval '${seconds}.000137 seconds'`

/** One INSERT … SELECT per table. The database generates all values, and they are always the same. */
function seedStatements(rows: number): string[] {
  const count = shopCounts(rows)
  return [
    `INSERT INTO customers
     SELECT n, 'customer' || n || '@example.com', 'Customer ' || n || coalesce(' ' || ${awkward('n')}, ''),
       CASE WHEN n % 3 > 0 THEN '+32 2 ' || lpad((n::bigint * 7919 % 10000000)::text, 7, '0') END,
       CASE WHEN n % 4 > 0 THEN date '1940-01-01' + (n::bigint * 37 % 25000)::int END,
       CASE n % 5 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['vip', ${awkward('n / 5')}] WHEN 2 THEN ARRAY[NULL, 'a"b', 'c,d']
         ELSE ARRAY['t' || n % 17] END,
       CASE WHEN n % 6 > 0 THEN jsonb_build_object('theme', ${awkward('n')}, 'n', n, 'ratio', 1.10, 'on', n % 2 = 0,
         'deep', jsonb_build_array(1, NULL, 'x')) END,
       n % 2 = 0, ${moment('n', 61)}, CASE WHEN n % 3 = 0 THEN ${moment('n', 67)} END
     FROM generate_series(1, ${count.customers}) n`,
    `INSERT INTO addresses OVERRIDING SYSTEM VALUE
     SELECT n, 1 + n % ${count.customers}, n % 300 || ' Main Street', ${awkward('n')}, 'City ' || n % 997,
       CASE WHEN n % 9 > 0 THEN lpad((n::bigint * 31 % 100000)::text, 5, '0') END, (ARRAY['BE', 'JP', 'US', 'CI', 'PT'])[1 + n % 5],
       CASE WHEN n % 4 > 0 THEN n % 180 - 90 + 1 / 3::float8 END, CASE WHEN n % 4 > 0 THEN n % 360 - 180 + 0.1::float8 END
     FROM generate_series(1, ${count.addresses}) n`,
    `INSERT INTO categories
     SELECT n, CASE WHEN n > 8 THEN 1 + n % 8 END, 'Category ' || n || coalesce(' ' || ${awkward('n')}, '')
     FROM generate_series(1, ${count.categories}) n`,
    `INSERT INTO products
     SELECT n, 'SKU-' || lpad(n::text, 8, '0'), CASE WHEN n % 10 > 0 THEN 1 + n % ${count.categories} END, 'Product ' || n,
       CASE WHEN n % 7 > 0 THEN repeat(coalesce(${awkward('n')}, '') || ' Lorem ipsum; ', 1 + n::int % 12) END,
       (n::bigint * 131 % 100000) / 100.0, CASE WHEN n % 5 > 0 THEN (n::bigint * 17 % 90000) / 1000.0 END,
       CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY[n::int % 500, -1, NULL, 2147483647] END,
       jsonb_build_object('colour', ${awkward('n / 3')}, 'stars', round(n % 50 / 10.0, 1), 'ids', jsonb_build_array(n, n + 1)),
       CASE WHEN n % 3 > 0 THEN decode(md5(n::text), 'hex') END, CASE WHEN n % 20 = 0 THEN ${moment('n', 977)} END
     FROM generate_series(1, ${count.products}) n`,
    `INSERT INTO inventory
     SELECT n, warehouse, 1000000 + n % 1000, CASE WHEN n % 2 = 0 THEN ${moment('n', 733)} END
     FROM generate_series(1, ${count.products}) n,
       unnest(ARRAY[${WAREHOUSES.map(literal).join(', ')}]) warehouse`,
    `INSERT INTO orders
     SELECT n, 1 + n::bigint * 7 % ${count.customers}, 99999 + n,
       ('{pending,paid,shipped,delivered,cancelled}'::order_status[])[1 + n % 5], (n::bigint * 257 % 1000000) / 100.0, CASE WHEN n % 5 = 0 THEN ${awkward('n / 5')} END,
       CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}'
         ELSE jsonb_build_object('ip', '10.0.' || n % 256 || '.1', 'utm', ${awkward('n')}) END,
       ${moment('n', 31)}, CASE WHEN n % 5 IN (2, 3) THEN ${moment('n', 43)} END
     FROM generate_series(1, ${count.orders}) n`,
    `INSERT INTO order_items
     SELECT n, line, 1 + (n::bigint * 13 + line) % ${count.products}, 1 + n % 4, (n::bigint * 71 % 50000) / 100.0,
       CASE WHEN n % 8 = 0 THEN (n % 9999) / 10000.0 END, CASE WHEN n % 11 = 0 THEN ${awkward('n')} END
     FROM generate_series(1, ${count.orders}) n, LATERAL generate_series(1, 1 + n % 3) line`,
    `INSERT INTO payments
     SELECT md5('payment ' || n)::uuid, n, (ARRAY['card', 'transfer', 'wallet'])[1 + n % 3], (n::bigint * 257 % 1000000) / 100.0,
       CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN 0.10 WHEN 2 THEN 1.5000 ELSE n / 7.0 END, ${awkward('n')},
       CASE WHEN n % 3 > 0 THEN jsonb_build_object('code', n % 100, 'amount', 10.50, 'text', ${awkward('n')}) END,
       CASE WHEN n % 10 > 0 THEN ${moment('n', 37)} END
     FROM generate_series(1, ${count.payments}) n`,
    `INSERT INTO reviews
     SELECT n, 1 + n::bigint * 3 % ${count.products}, 1 + n::bigint * 11 % ${count.customers}, CASE WHEN n % 6 > 0 THEN 'user' || n END,
       1 + n % 5, ${awkward('n')}, coalesce(${awkward('n / 2')}, 'Fine.') || repeat(' More to say.', n::int % 30),
       CASE WHEN n % 3 > 0 THEN ARRAY[n::int % 7, n::int % 5] END, ${moment('n', 401)}
     FROM generate_series(1, ${count.reviews}) n`,
    `INSERT INTO cart_items
     SELECT md5('session ' || n / 3)::uuid, 1 + n % ${count.products}, 1 + n % 3, ${moment('n', 509)}
     FROM generate_series(1, ${count.cart_items}) n`,
    `INSERT INTO "OrderNotes"
     SELECT n, 1 + n::bigint * 5 % ${count.orders}, CASE WHEN n % 4 > 0 THEN 'Agent ' || n % 20 END, coalesce(${awkward('n')}, '-'),
       ${moment('n', 601)}
     FROM generate_series(1, ${count.OrderNotes}) n`,
    `SELECT setval('customers_id_seq', ${count.customers}), setval('addresses_id_seq', ${count.addresses}),
       setval('products_id_seq', ${count.products}), setval('orders_id_seq', ${count.orders}),
       setval('reviews_id_seq', ${count.reviews}), setval('"OrderNotes_noteId_seq"', ${count.OrderNotes}),
       setval('invoice_numbers', ${99_999 + count.orders})`,
  ]
}

/** Fills the empty tables and sets the sequences, in one transaction. Equal `rows` give equal values. */
async function seed(client: pg.ClientBase, rows: number = DEFAULT_ROWS): Promise<void> {
  if (!Number.isInteger(rows) || rows < 1000) throw new RangeError(`The shop needs 1000 rows or more, not ${rows}.`)
  await client.query('BEGIN')
  for (const statement of seedStatements(rows)) await client.query(statement)
  await client.query('COMMIT')
}

export interface ShopOptions {
  /** Minimum number of rows in total. Default: 300,000; at least 1000. */
  rows?: number
  /** Creates the target's tables instead: `targetDdl` without rows. */
  schemaOnly?: boolean
  /** With `schemaOnly`: includes the source's indexes and constraints, for the load to defer. */
  whole?: boolean
  /**
   * Leaves out values that molt before 1.0 cannot load: empty strings, negative or 19-digit numbers, long floats, CRLF.
   */
  plain?: boolean
}

/** Removes values that molt before 1.0 cannot load: empty strings, negative or 19-digit numbers, long floats, CRLF. */
const MAKE_PLAIN = `
  DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT attrelid::regclass AS t, quote_ident(attname) AS name, format_type(atttypid, NULL) AS type
               FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
              WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
                AND attidentity = '' AND attgenerated = ''
    LOOP
      IF c.type IN ('text', 'character varying') THEN
        EXECUTE format('UPDATE %s SET %s = ''x'' WHERE %2$s = ''''', c.t, c.name);
        EXECUTE format('UPDATE %s SET %s = replace(%2$s, chr(13), '''') WHERE strpos(%2$s, chr(13)) > 0', c.t, c.name);
      ELSIF c.type IN ('smallint', 'integer', 'bigint', 'numeric') THEN
        EXECUTE format('UPDATE %s SET %s = abs(%2$s) WHERE %2$s < 0', c.t, c.name);
        IF c.type = 'numeric' THEN
          EXECUTE format('UPDATE %s SET %s = round(%2$s, 6) WHERE length(%2$s::text) > 18', c.t, c.name);
        END IF;
      ELSIF c.type = 'text[]' THEN
        EXECUTE format('UPDATE %s SET %s = replace(%2$s::text, chr(13), '''')::text[] WHERE strpos(%2$s::text, chr(13)) > 0', c.t, c.name);
      ELSIF c.type IN ('integer[]', 'bigint[]') THEN
        EXECUTE format('UPDATE %s SET %s = replace(%2$s::text, ''-'', '''')::%s WHERE %2$s::text LIKE ''%%-%%''', c.t, c.name, c.type);
      ELSIF c.type = 'double precision' THEN
        EXECUTE format('UPDATE %s SET %s = round(abs(%2$s)::numeric, 6) WHERE %2$s IS NOT NULL', c.t, c.name);
      END IF;
    END LOOP;
  END $$`

/** Creates the shop in an empty database: with rows and all constraints, or as a load's empty target. */
export async function createShop(
  url: string,
  { rows, schemaOnly = false, whole = false, plain = false }: ShopOptions = {},
): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  // Stopping the server fails the query. Without a listener, that would also end this process.
  client.on('error', () => {})
  await client.connect()
  try {
    await client.query(schemaOnly ? targetDdl() : sourceTables())
    if (schemaOnly && whole) await client.query(SOURCE_CONSTRAINTS)
    if (schemaOnly) return
    await seed(client, rows)
    if (plain) await client.query(MAKE_PLAIN)
    await client.query(SOURCE_CONSTRAINTS)
    await client.query(`SET default_statistics_target = 10; ANALYZE ${SHOP_TABLES.map(pg.escapeIdentifier).join(', ')}`)
  } finally {
    await client.end()
  }
}
