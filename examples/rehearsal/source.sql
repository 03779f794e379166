-- A sample. Replace it with a dump of your schema, with or without rows (pg_dump --schema=public --no-owner).
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email text, created_at timestamptz NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, total numeric(12, 2) NOT NULL, note text);
INSERT INTO customers SELECT i, 'Customer ' || i, 'user' || i || '@shop.test', now() FROM generate_series(1, 20000) i;
INSERT INTO orders SELECT i, 1 + i % 20000, i * 1.25, NULL FROM generate_series(1, 50000) i;
