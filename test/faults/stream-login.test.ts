/** A leg's login on the target: its privileges, and that a leg cannot write once its login is revoked. */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import {
  createStreamLogin,
  dropStreamLogin,
  grantOwnWrites,
  loginExists,
  mayCreateLogins,
  newLoginName,
  retireStreamLogin,
  revokeOwnWrites,
} from '../../src/destination/stream-login.ts'
import { withLogin } from '../../src/runtime/url.ts'
import { type Servers, startServers } from '../support/servers.ts'

let pair: Servers
let admin: pg.Client
const clients: pg.Client[] = []
const TABLES = ['items', 'molt_actions_heartbeat']
beforeAll(async () => {
  pair = await startServers()
  admin = await client(pair.target.url)
  clients.length = 0
  await admin.query(`
    CREATE ROLE mover LOGIN PASSWORD 'postgres' CREATEROLE CREATELOGIN;
    CREATE ROLE plain LOGIN PASSWORD 'postgres';
    CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'old');
    CREATE TABLE molt_actions_heartbeat (id int PRIMARY KEY); CREATE TABLE other (id int);
    ALTER TABLE items OWNER TO mover; ALTER TABLE molt_actions_heartbeat OWNER TO mover`)
}, 60_000)
afterEach(async () => {
  await Promise.all(clients.splice(0).map((each) => each.end().catch(() => {})))
})
afterAll(async () => {
  await admin?.end()
  await pair?.stop()
})

async function client(url: string): Promise<pg.Client> {
  const opened = new pg.Client(url)
  opened.on('error', () => {})
  await opened.connect()
  clients.push(opened)
  return opened
}
const as = (role: string) => client(withLogin(pair.target.url, role, 'postgres'))
const value = async () => (await admin.query('SELECT v FROM items WHERE id = 1')).rows[0].v
const refusal = (work: Promise<unknown>) =>
  work.then(
    () => 'nothing',
    (error) => error.code,
  )

test('a leg can write to the expected tables and nothing else', async () => {
  const mover = await as('mover')
  expect(await mayCreateLogins(mover)).toBe(true)
  const leg = await createStreamLogin(mover, pair.target.url, newLoginName(), 'public', TABLES)
  const replicator = await client(leg.url)
  await replicator.query("INSERT INTO items VALUES (1, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v")
  expect(await value()).toBe('new')
  expect(await refusal(replicator.query('INSERT INTO other VALUES (1)'))).toBe('42501')
  expect(await refusal(replicator.query('CREATE SCHEMA mine'))).toBe('42501')
  await retireStreamLogin(mover, pair.target.url, leg.role)
  await dropStreamLogin(mover, leg.role)
})

test('a frozen replicator can neither commit its open transaction nor reconnect', async () => {
  const mover = await as('mover')
  const leg = await createStreamLogin(mover, pair.target.url, newLoginName(), 'public', TABLES)
  const [frozen, idle] = [await client(leg.url), await client(leg.url)]
  await admin.query("UPDATE items SET v = 'before' WHERE id = 1")
  await frozen.query("BEGIN; UPDATE items SET v = 'stale' WHERE id = 1")
  await retireStreamLogin(mover, pair.target.url, leg.role)
  expect(await refusal(frozen.query('COMMIT'))).not.toBe('nothing')
  expect(await refusal(idle.query("UPDATE items SET v = 'stale' WHERE id = 1"))).not.toBe('nothing')
  expect(await refusal(client(leg.url))).toMatch(/^28/)
  expect(await value()).toBe('before')
  // If a run was killed midway, the next run repeats both calls, even if the login no longer exists.
  await retireStreamLogin(mover, pair.target.url, leg.role)
  await dropStreamLogin(mover, leg.role)
  expect(await loginExists(mover, leg.role)).toBe(false)
  await retireStreamLogin(mover, pair.target.url, leg.role)
  await dropStreamLogin(mover, leg.role)
})

test('a role that cannot create logins revokes its own write privileges, and restores them later', async () => {
  await admin.query('ALTER TABLE items OWNER TO plain')
  const plain = await as('plain')
  expect(await mayCreateLogins(plain)).toBe(false)
  expect(await refusal(plain.query(`CREATE ROLE ${newLoginName()} LOGIN`))).toBe('42501')
  expect(await revokeOwnWrites(plain, 'public', ['items'])).toEqual([])
  expect(await refusal(plain.query("UPDATE items SET v = 'stale'"))).toBe('42501')
  expect(await value()).toBe('before')
  await grantOwnWrites(plain, 'public', ['items'])
  await grantOwnWrites(plain, 'public', ['items'])
  expect(await refusal(plain.query("UPDATE items SET v = 'after'"))).toBe('nothing')
})

test('names the tables whose write privileges cannot be revoked', async () => {
  await admin.query('GRANT INSERT ON other TO plain')
  const plain = await as('plain')
  expect(await revokeOwnWrites(plain, 'public', ['items', 'other'])).toEqual(['other'])
  await grantOwnWrites(plain, 'public', ['items'])
  expect(await revokeOwnWrites(admin, 'public', ['other'])).toEqual(['other'])
})

test.each([
  ['postgresql://a:b@h:1/d?sslmode=require&sslcert=x&sslkey=y', 'postgresql://u:p%40@h:1/d?sslmode=require'],
  ['postgres://h/d', 'postgres://u:p%40@h/d'],
  ['postgresql://h/d?user=a&password=b&options=--cluster%3Dx', 'postgresql://u:p%40@h/d?options=--cluster%3Dx'],
])('replaces the login of %s', (url, replaced) => {
  expect(withLogin(url, 'u', 'p@')).toBe(replaced)
})
