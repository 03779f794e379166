// Creates the migration roles from the output of `grants: print`, and revokes each privilege in turn.
import pg from 'pg'
import { split, tokenize } from '../../rehearsal/cockroach/lexer.ts'
import { type Finding, runChecks } from '../../src/checks/check.ts'
import { sourceGrants, targetGrants } from '../../src/checks/grants.ts'
import { CHECKS } from '../../src/checks/index.ts'
import { withLogin } from '../../src/runtime/url.ts'
import { factsOf, type World, world } from '../contract/checks-helpers.ts'
import { startServers } from './servers.ts'

export const MIGRATION_USER = 'molt'
const PASSWORD = 'moving-password'

export const SETTINGS = {
  schema: 'shop',
  targetSchema: 'shop',
  tables: ['customers', 'orders'],
  defer: { indexes: true, constraints: true },
  implicitAccess: 'molt serves the files over HTTP (`local-path`)',
}

const SOURCE = [
  'CREATE SCHEMA shop',
  'CREATE ROLE shop_owner',
  'CREATE SEQUENCE shop.invoices',
  `CREATE TABLE shop.customers (id bigint PRIMARY KEY, email text UNIQUE, region int);
   CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer bigint REFERENCES shop.customers, total numeric(10,2))`,
  `CREATE SCHEMA far; CREATE TABLE far.regions (id int PRIMARY KEY);
   ALTER TABLE shop.customers ADD CONSTRAINT in_region FOREIGN KEY (region) REFERENCES far.regions`,
  'ALTER TABLE shop.orders OWNER TO shop_owner',
  'CREATE SCHEMA monitoring; CREATE EXTENSION pg_stat_statements SCHEMA monitoring',
  'ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY; ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY',
]
const TARGET = [
  'CREATE SCHEMA shop; CREATE SCHEMA far',
  'CREATE SEQUENCE shop.invoices',
  `CREATE TABLE far.regions (id bigint PRIMARY KEY);
   CREATE TABLE shop.customers (id bigint PRIMARY KEY, email text, region bigint);
   CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer bigint, total numeric(10,2) CHECK (total >= 0))`,
  'CREATE UNIQUE INDEX one_email ON shop.customers (email); CREATE INDEX by_customer ON shop.orders (customer)',
  `ALTER TABLE shop.customers ADD CONSTRAINT in_region FOREIGN KEY (region) REFERENCES far.regions (id);
   ALTER TABLE shop.orders ADD CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES shop.customers (id)`,
]

/** Both servers, with schemas in which every grant matters, and the migration roles. */
export interface GrantBench {
  granted: Granted
  stop(): Promise<void>
}

/** @param version the CockroachDB version that the target reports */
export async function startGrantBench(version?: string): Promise<GrantBench> {
  const servers = await startServers({ cluster: version ? { version } : {} })
  const admin = await world(servers, SOURCE, TARGET)
  const database = new URL(admin.source).pathname.slice(1)
  const behind = servers.behind.urlOf(database)
  // PUBLIC's default privileges would hide a missing grant.
  for (const url of [admin.source, behind]) await runAlone(url, `REVOKE ALL ON DATABASE ${database} FROM PUBLIC`)
  await runAlone(behind, 'REVOKE ALL ON SCHEMA public FROM PUBLIC')
  for (const setting of ['statement_timeout', 'idle_in_transaction_session_timeout'])
    await runAlone(admin.source, `ALTER DATABASE ${database} SET ${setting} = '50s'`)
  await runAlone(admin.target, 'CREATE ROLE app')
  await runAlone(admin.target, 'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE shop.customers, shop.orders TO app')
  await runAlone(admin.target, 'CREATE ROLE batch')
  await runAlone(admin.target, 'GRANT ALL ON TABLE shop.orders TO batch')
  const granted = await grantAsPrinted(admin)
  return { granted, stop: servers.stop }
}

/** What `prepare` reports for a missing privilege: a check, or the code of a refused connection. */
const NAMED: [right: RegExp, code: string][] = [
  [/^REPLICATION$/, 'right.replication'],
  [/^BYPASSRLS$/, 'right.row-security'],
  [/^SET statement_timeout$/, 'src.statement-timeout'],
  [/^SET idle_in_transaction_session_timeout$/, 'src.idle-timeout'],
  [/^MEMBER OF pg_read_all_stats$/, 'right.statistics'],
  [/^USAGE ON SCHEMA "monitoring"$/, 'right.statistics'],
  [/^(MEMBER|OWNER) OF "/, 'right.owner'],
  [/^CREATE(ROLE|LOGIN)$/, 'right.target-logins'],
  [/^CONNECT ON DATABASE /, 'connect.not-allowed'],
  [/^source CREATE ON DATABASE /, 'right.create'],
  [/^source SELECT ON SEQUENCE /, 'right.read'],
  [/^(CREATE|USAGE) ON (DATABASE|SCHEMA) /, 'right.target-create'],
  [/^GRANT OPTION FOR ALL /, 'right.write-access'],
  [/^GRANT OPTION FOR /, 'right.target-logins'],
  [/^ALL ON TABLE /, 'right.write-access'],
  [/^(SELECT|INSERT|UPDATE|DELETE) ON TABLE /, 'right.target-tables'],
  [/^(SELECT|UPDATE) ON SEQUENCE /, 'right.target-sequences'],
  [/^DROP ON TABLE /, 'right.target-import'],
  [/^CREATE ON TABLE "far"/, 'right.target-foreign-key'],
  [/^CREATE ON TABLE /, 'right.target-defer'],
  [/^SYSTEM VIEWJOB$/, 'tgt.jobs-unseen'],
  [/^SYSTEM VIEWACTIVITYREDACTED$/, 'right.target-activity'],
  [/^SYSTEM VIEWCLUSTERSETTING$/, 'right.target-settings'],
  [/^SYSTEM CONTROLJOB$/, 'right.target-control-job'],
  [/^SYSTEM EXTERNALIOIMPLICITACCESS$/, 'right.target-implicit-access'],
]

/**
 * Revokes each privilege, and grants it again.
 * @returns for each one, what `prepare` should report and what it did report
 */
export async function takeEach(
  granted: Granted,
  asked: readonly Removal[],
): Promise<{ expected: Record<string, string>; found: Record<string, string> }> {
  const found: Record<string, string> = {}
  const expected: Record<string, string> = {}
  for (const { side, right, take } of asked) {
    const name = `${side} ${right}`
    const code = NAMED.find(([form]) => form.test(right) || form.test(name))?.[1] ?? 'nothing is expected'
    await runAlone(granted.admin[side], take)
    const codes = await blockers(granted).then(
      (findings) => findings.map(({ check }) => check),
      (error) => [error.code],
    )
    expected[name] = code
    found[name] = codes.includes(code) ? code : `only ${codes.join(', ') || 'nothing'}`
    await giveAgain(granted, side)
  }
  return { expected, found }
}

/** Both sides, with migration roles that have exactly what was printed. */
export interface Granted {
  /** The administrators' URLs. */
  admin: World
  /** The migration roles' URLs. */
  user: World
  statements: { side: 'source' | 'target'; sql: string }[]
}

export async function grantAsPrinted(admin: World, settings = SETTINGS): Promise<Granted> {
  const facts = await factsOf(admin, settings)
  const printed = { source: sourceGrants(facts, MIGRATION_USER), target: targetGrants(facts, MIGRATION_USER) }
  const statements: Granted['statements'] = []
  for (const side of ['source', 'target'] as const)
    for (const { sql } of split(printed[side].replace('WRITE A PASSWORD HERE', PASSWORD))) {
      await runAlone(admin[side], sql)
      statements.push({ side, sql })
    }
  const user = {
    source: withLogin(admin.source, MIGRATION_USER, PASSWORD),
    target: withLogin(admin.target, MIGRATION_USER, PASSWORD),
  }
  return { admin, user, statements }
}

export async function runAlone(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(sql)
  } finally {
    await client.end()
  }
}

/** Runs one side's printed statements again, which restores revoked privileges. */
export async function giveAgain({ admin, statements }: Granted, side: 'source' | 'target'): Promise<void> {
  for (const each of statements) if (each.side === side) await runAlone(admin[side], each.sql)
}

/** Blocking checks of `prepare` without a waiver, run as the migration role. */
export async function blockers({ user }: Granted, settings = SETTINGS): Promise<Finding[]> {
  const findings = runChecks(CHECKS, await factsOf(user, settings))
  return findings.filter(({ severity }) => severity === 'block')
}

/** One privilege, with the statement that revokes it. */
export interface Removal {
  side: 'source' | 'target'
  /** `SELECT ON TABLE "shop"."orders"`, `CREATEROLE`, `MEMBER OF "owner"` … */
  right: string
  take: string
}

/** Every privilege in the printed statements. Excludes logins and passwords, which are always needed. */
export function removals({ statements }: Granted): Removal[] {
  const all = statements.flatMap(({ side, sql }) => rightsIn(sql).map((each) => ({ side, ...each })))
  // Two statements can grant the same privilege.
  return [...new Map(all.map((each) => [`${each.side} ${each.right}`, each])).values()]
}

type Rights = Omit<Removal, 'side'>[]

function rightsIn(sql: string): Rights {
  const user = `"${MIGRATION_USER}"`
  const [, option] = new RegExp(`^ALTER ROLE ${user} (CREATEROLE|REPLICATION|BYPASSRLS|CREATELOGIN)$`).exec(sql) ?? []
  if (option) return [{ right: option, take: `ALTER ROLE ${user} NO${option}` }]
  const [, setting] = new RegExp(`^ALTER ROLE ${user} SET (\\w+) = `).exec(sql) ?? []
  if (setting) return [{ right: `SET ${setting}`, take: `ALTER ROLE ${user} RESET ${setting}` }]
  const [, system] = /^GRANT SYSTEM (\w+) TO /.exec(sql) ?? []
  if (system) return [{ right: `SYSTEM ${system}`, take: `REVOKE SYSTEM ${system} FROM ${user}` }]
  const [, table, owner] = /^ALTER TABLE (\S+) OWNER TO (\S+)$/.exec(sql) ?? []
  if (owner) return [{ right: `OWNER OF ${table}`, take: `ALTER TABLE ${table} OWNER TO postgres` }]
  if (!sql.startsWith('GRANT ')) return []
  const [, what = '', to = '', withOption = ''] = /^GRANT (.*) TO (".*?")( WITH GRANT OPTION)?$/s.exec(sql) ?? []
  // Privileges granted to a table's owner are for the table's foreign keys, not for the migration role.
  if (to !== user) return []
  if (!what.includes(' ON ')) return [{ right: `MEMBER OF ${what}`, take: `REVOKE ${what} FROM ${user}` }]
  const [privileges = '', rest = ''] = what.split(' ON ')
  const [, kind = '', names = ''] = /^(TABLE|SEQUENCE|SCHEMA|DATABASE) (.*)$/s.exec(rest) ?? []
  return listed(names).flatMap((name) =>
    privileges.split(', ').flatMap((privilege) => {
      const right = `${privilege} ON ${kind} ${name}`
      const option = { right: `GRANT OPTION FOR ${right}`, take: `REVOKE GRANT OPTION FOR ${right} FROM ${user}` }
      return [{ right, take: `REVOKE ${right} FROM ${user}` }, ...(withOption ? [option] : [])]
    }),
  )
}

/** The comma-separated names, as written. */
function listed(names: string): string[] {
  const found = ['']
  for (const { text } of tokenize(names)) {
    if (text === ',') found.push('')
    else found[found.length - 1] += text
  }
  return found
}
