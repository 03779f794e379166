import { randomBytes } from 'node:crypto'
import pg from 'pg'
import type { EmbeddedServer } from '../../rehearsal/postgres/postgres.ts'
import { runChecks } from '../../src/checks/check.ts'
import type { Facts, Settings } from '../../src/checks/facts/facts.ts'
import { assess } from '../../src/checks/facts/gather.ts'
import { CHECKS } from '../../src/checks/index.ts'

const SETTINGS: Omit<Settings, 'tables' | 'filter'> = {
  migration: 'main',
  phase: undefined,
  schema: 'public',
  targetSchema: 'public',
  asked: undefined,
  slot: 'molt_slot',
  publication: 'molt_fetch',
  rehearses: true,
  writeAccess: 'close',
  defer: { indexes: false, constraints: false },
  trial: 'forms',
  tableHandling: 'none',
  bucketPath: undefined,
  mode: undefined,
  implicitAccess: undefined,
  tableConcurrency: 2,
  exportConcurrency: 2,
  rowBatchSize: 1000,
  loadRate: 2 ** 20,
  jobLimit: 3_600_000,
  sessionLimit: undefined,
  longTransaction: 60_000,
}

export interface World {
  source: string
  target: string
}

export async function query(url: string, ...statements: string[]): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    let rows: Record<string, unknown>[] = []
    for (const statement of statements) rows = (await client.query(statement)).rows ?? []
    return rows
  } finally {
    await client.end()
  }
}

/** Analyzes only the tables. A plain ANALYZE also reads 60 system catalogs, which takes longer than everything else. */
export const ANALYZE_TABLES = `DO $$ DECLARE tables text; BEGIN
  SELECT string_agg(c.oid::regclass::text, ', ') INTO tables FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^(pg_|information_schema$|_crdb$)';
  IF tables IS NOT NULL THEN EXECUTE 'ANALYZE ' || tables; END IF; END $$`

/**
 * Creates a database on each server from this DDL, bypassing the like-server on the target. Statements in one string run
 * as one transaction.
 */
export async function world(
  servers: { source: EmbeddedServer; target: EmbeddedServer; behind?: EmbeddedServer },
  source: string | string[],
  target: string | string[] = source,
): Promise<World> {
  const name = `w${randomBytes(4).toString('hex')}`
  const make = async (server: EmbeddedServer, ddl: string | string[]) => {
    await query(server.urlOf('postgres'), `CREATE DATABASE ${name}`)
    await query(server.urlOf(name), ...[ddl].flat(), ANALYZE_TABLES)
  }
  await make(servers.source, source)
  await make(servers.behind ?? servers.target, target)
  return { source: servers.source.urlOf(name), target: servers.target.urlOf(name) }
}

/** Gathers the same facts about these databases as `prepare`. */
export function factsOf(
  urls: World,
  settings: Partial<Settings> = {},
  limits: { sampleRows?: number; sampleMs?: number; walWindowMs?: number } = {},
): Promise<Facts> {
  const { tables, filter, ...others } = settings
  return assess({
    sourceUrl: urls.source,
    targetUrl: urls.target,
    settings: { ...SETTINGS, ...others },
    choose: (schema) => {
      const names = tables ?? schema.tables.map((table) => table.name)
      return { tables: names, filter: filter ?? `^(${names.map((name) => name.replace(/\W/g, '\\$&')).join('|')})$` }
    },
    walWindowMs: 0,
    ...limits,
  })
}

/** Returns the same facts, with this version of CockroachDB as the target. */
export function asCockroach(facts: Facts, major = 25, minor = 2): Facts {
  const server = {
    ...facts.target.server,
    isCockroach: true,
    isLikeServer: false,
    version: `CockroachDB CCL v${major}.${minor}.1`,
    major,
    minor,
  }
  return {
    ...facts,
    target: {
      ...facts.target,
      server,
      intSize: '4',
      serial: 'sql_sequence',
      jobs: [],
      sight: { activity: true, jobs: true, settings: true },
    },
  }
}

/** Returns a changed deep copy of the facts. */
export function changed(facts: Facts, change: (facts: Facts) => void): Facts {
  const copy = structuredClone(facts)
  change(copy)
  return copy
}

/** Returns the objects that one check reports. */
export function objectsOf(facts: Facts, id: string): string[] {
  const check = CHECKS.find((each) => each.id === id)
  if (!check) throw new Error(`there is no check ${id}`)
  return runChecks([check], facts).map((found) => found.object)
}
