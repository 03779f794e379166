/** Defects of the shop on the target. */
import { expect } from 'vitest'

/**
 * A defect: its name, the statement that causes it, the statement that undoes it, and what the message must mention.
 */
export const DEFINITIONS: [what: string, done: string, undone: string, names: string[]][] = [
  ['a missing table', 'ALTER TABLE reviews RENAME TO away', 'ALTER TABLE away RENAME TO reviews', ['public.reviews']],
  [
    'a key mismatch',
    'ALTER TABLE cart_items DROP CONSTRAINT cart_items_pkey, ADD PRIMARY KEY (product_id, session)',
    'ALTER TABLE cart_items DROP CONSTRAINT cart_items_pkey, ADD PRIMARY KEY (session, product_id)',
    ['cart_items', '(session, product_id)', '(product_id, session)'],
  ],
  [
    'a missing column',
    'ALTER TABLE reviews RENAME COLUMN title TO headline',
    'ALTER TABLE reviews RENAME COLUMN headline TO title',
    ['reviews', 'title'],
  ],
  [
    'a changed type',
    'ALTER TABLE products ALTER weight_kg TYPE text',
    'ALTER TABLE products ALTER weight_kg TYPE numeric(10,3) USING weight_kg::numeric',
    ['weight_kg', 'numeric(10,3)', 'text'],
  ],
  [
    'a narrower type',
    'ALTER TABLE products ALTER price TYPE numeric(8,2)',
    'ALTER TABLE products ALTER price TYPE numeric(12,2)',
    ['price', 'numeric(12,2)', 'numeric(8,2)'],
  ],
  [
    'a reordered enum',
    `ALTER TYPE order_status RENAME TO was;
     CREATE TYPE order_status AS ENUM ('paid', 'pending', 'shipped', 'delivered', 'cancelled');
     ALTER TABLE orders ALTER status DROP DEFAULT, ALTER status TYPE order_status USING status::text::order_status`,
    `ALTER TABLE orders ALTER status TYPE was USING status::text::was, ALTER status SET DEFAULT 'pending';
     DROP TYPE order_status; ALTER TYPE was RENAME TO order_status`,
    ['status', 'pending, paid', 'paid, pending'],
  ],
]

/** A change to the target's rows, and the counts that `verify` reports for it. */
export const ROWS: [what: string, table: string, done: string, found: Record<string, unknown>][] = [
  ['a deleted row', 'categories', 'DELETE FROM categories WHERE id = 2', { missing: 1 }],
  ['a changed row', 'reviews', "UPDATE reviews SET rating = 6 - rating, title = 'x' WHERE id = 8", { mismatch: 1 }],
  [
    'an added row',
    'reviews',
    "INSERT INTO reviews (id, product_id, customer_id, rating, body) VALUES (999999, 1, 1, 1, 'x')",
    { extraneous: 1, diagnosis: expect.any(String) },
  ],
  [
    'only the microseconds of a timestamp',
    'reviews',
    "UPDATE reviews SET created_at = date_trunc('milliseconds', created_at) WHERE id < 9",
    { columns: ['created_at'], diagnosis: expect.any(String) },
  ],
  [
    'an empty string that became NULL',
    'orders',
    "UPDATE orders SET coupon = NULL WHERE coupon = ''",
    { columns: ['coupon'], diagnosis: expect.any(String) },
  ],
  [
    'a table emptied by TRUNCATE on the source',
    'cart_items',
    'INSERT INTO cart_items SELECT gen_random_uuid(), 1 FROM generate_series(1, 100)',
    { extraneous: 100, diagnosis: expect.any(String) },
  ],
]

/** Changes that molt verify misses if it misreads both sides in the same way. */
export const UNSEEN: [what: string, table: string, done: string, found: Record<string, unknown>][] = [
  [
    'a truncated number',
    'payments',
    'UPDATE payments SET fee = round(fee, 10) WHERE scale(fee) > 10',
    { columns: ['fee'], unseen: expect.any(Number), diagnosis: expect.any(String) },
  ],
  [
    'a number inside JSON',
    'customers',
    'UPDATE customers SET settings = settings || \'{"ratio": 1.2}\' WHERE id = 3',
    { mismatch: 1, columns: ['settings'], unseen: 1 },
  ],
  ['a missing row', 'reviews', 'DELETE FROM reviews WHERE id = 7', { missing: 1, unseen: 1 }],
  [
    'one row replaced by another',
    'reviews',
    'UPDATE reviews SET id = 888888 WHERE id = 9',
    { missing: 1, extraneous: 1, unseen: 2 },
  ],
]
