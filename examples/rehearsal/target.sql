-- The same tables for CockroachDB, empty. Replace them with yours, such as the 1-tables.sql of `npm run convert`.
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email text, created_at timestamptz NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, total numeric(12, 2) NOT NULL, note text);
