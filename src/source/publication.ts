import { own } from '../model/records.ts'
import { type Database, ident, qualified } from '../runtime/database.ts'
import { HEARTBEAT, OUR_SCHEMA } from './heartbeat.ts'

/** What a publication sends. */
export interface Publication {
  allTables: boolean
  truncate: boolean
  /** INSERT, UPDATE or DELETE, if the publication does not send it. */
  withheld: string[]
  /** As `schema.table`. */
  tables: string[]
  /**
   * Tables that the publication sends only in part, because of a row filter or a column list (PostgreSQL 15 and later).
   */
  partial: { table: string; by: string }[]
}

export async function readPublication(db: Database, name: string): Promise<Publication | undefined> {
  const { rows } = await db.query(
    `SELECT puballtables AS "allTables", pubtruncate AS truncate, array_remove(ARRAY[
              CASE WHEN NOT pubinsert THEN 'INSERT' END, CASE WHEN NOT pubupdate THEN 'UPDATE' END,
              CASE WHEN NOT pubdelete THEN 'DELETE' END], NULL) AS withheld
       FROM pg_catalog.pg_publication WHERE pubname = $1`,
    [name],
  )
  if (!rows[0]) return undefined
  // Before PostgreSQL 15, publications have no column lists or row filters. A server may list no columns for a
  // publication that sends all of them.
  const tables = await db.query(
    `SELECT schemaname || '.' || tablename AS table, to_jsonb(t) ->> 'rowfilter' IS NOT NULL AS filtered,
            ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                   JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = schemaname AND c.relname = tablename AND jsonb_typeof(to_jsonb(t) -> 'attnames') = 'array'
                    AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                    AND NOT to_jsonb(t) -> 'attnames' ? a.attname::text ORDER BY a.attnum) AS missing
       FROM pg_catalog.pg_publication_tables t WHERE pubname = $1 ORDER BY schemaname, tablename`,
    [name],
  )
  return {
    ...rows[0],
    tables: tables.rows.map(({ table }) => table),
    partial: tables.rows.flatMap(({ table, filtered, missing }) => [
      ...(filtered ? [{ table, by: 'through a row filter' }] : []),
      ...(missing.length ? [{ table, by: `without the columns ${missing.join(', ')}` }] : []),
    ]),
  }
}

/**
 * Identifies a publication's state. Every change to the publication changes the mark, even if it is undone immediately,
 * because it replaces a catalog row.
 */
export interface PublicationMark {
  oid: string
  /** Mark of the publication itself, such as its operations. */
  itself: string
  /** `schema.table` → mark. */
  tables: Record<string, string>
}

/** SQL expression for a {@link PublicationMark}; `$n` is the publication's name. */
export function publicationMark(n: number): string {
  return `(SELECT jsonb_build_object('oid', p.oid::text, 'itself', p.xmin::text, 'tables',
             (SELECT coalesce(jsonb_object_agg(n.nspname || '.' || c.relname, concat(pr.oid, ' ', pr.xmin)), '{}')
                FROM pg_catalog.pg_publication_rel pr JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE pr.prpubid = p.oid))
             FROM pg_catalog.pg_publication p WHERE p.pubname = $${n})`
}

export async function readPublicationMark(db: Database, name: string): Promise<PublicationMark | undefined> {
  const { rows } = await db.query(`SELECT ${publicationMark(1)} AS mark`, [name])
  return rows[0].mark ?? undefined
}

/** Describes what changed in a publication between two readings. */
export function publicationChanges(before: PublicationMark, after: PublicationMark): string[] {
  if (before.oid !== after.oid) return ['it was dropped and recreated']
  const found = before.itself === after.itself ? [] : ['its published operations were set']
  for (const [table, mark] of Object.entries(before.tables))
    if (!own(after.tables, table)) found.push(`${table} was removed`)
    else if (after.tables[table] !== mark) found.push(`${table} was removed and added again`)
  for (const table of Object.keys(after.tables)) if (!own(before.tables, table)) found.push(`${table} was added`)
  return found
}

/** Creates a publication of exactly these tables and the heartbeat, without TRUNCATE. */
export async function createPublication(
  db: Database,
  name: string,
  schema: string,
  tables: readonly string[],
): Promise<void> {
  const all = [...tables.map((table) => qualified(schema, table)), `${OUR_SCHEMA}.${HEARTBEAT}`]
  const { rows } = await db.query("SELECT current_setting('server_version_num')::int >= 130000 AS partitions")
  // PostgreSQL 12 supports neither partitioned tables in a publication nor this setting.
  const root = rows[0].partitions ? ', publish_via_partition_root = true' : ''
  await db.query(
    `CREATE PUBLICATION ${ident(name)} FOR TABLE ${all.join(', ')} WITH (publish = 'insert, update, delete'${root})`,
  )
}

/** Adds the heartbeat to a publication that a tool created, and removes TRUNCATE. */
export async function completePublication(db: Database, name: string): Promise<void> {
  const found = await readPublication(db, name)
  if (found && !found.allTables && !found.tables.includes(`${OUR_SCHEMA}.${HEARTBEAT}`))
    await db.query(`ALTER PUBLICATION ${ident(name)} ADD TABLE ${OUR_SCHEMA}.${HEARTBEAT}`)
  // If the publication does not send some operations, such changes have been lost since the slot was created.
  // Correcting the publication now would only hide the loss.
  if (found?.truncate && !found.withheld.length)
    await db.query(`ALTER PUBLICATION ${ident(name)} SET (publish = 'insert, update, delete')`)
}

/** Lists what is wrong with the publication for a stream of exactly these tables. */
export async function publicationProblems(
  db: Database,
  facts: { publication: string; schema: string; tables: readonly string[] },
): Promise<string[]> {
  const problems: string[] = []
  const publication = await readPublication(db, facts.publication)
  if (!publication) return [`the publication ${facts.publication} does not exist`]
  for (const what of publication.withheld)
    problems.push(`the publication ${facts.publication} does not send ${what}: such changes are lost`)
  if (publication.truncate) problems.push(`the publication ${facts.publication} sends TRUNCATE, which stops the stream`)
  const wanted = [...facts.tables.map((table) => `${facts.schema}.${table}`), `${OUR_SCHEMA}.${HEARTBEAT}`]
  for (const table of wanted)
    if (!publication.tables.includes(table))
      problems.push(`the publication ${facts.publication} does not send ${table}`)
  for (const table of publication.tables)
    if (!wanted.includes(table))
      problems.push(`the publication ${facts.publication} also sends ${table}, which is not an expected table`)
  for (const { table, by } of publication.partial)
    problems.push(`the publication ${facts.publication} sends ${table} ${by}`)
  return problems
}
