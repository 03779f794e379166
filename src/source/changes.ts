import type { Plan } from '../model/plan.ts'
import type { ErrorCode } from '../runtime/codes.ts'
import type { Database } from '../runtime/database.ts'
import { type PublicationMark, publicationChanges, publicationMark } from './publication.ts'

/** Catalog data of a table in the plan, or of one of its partitions, on the source at one moment. */
interface TableState {
  /** As `schema.table`. */
  name: string
  oid: number
  /** The table's storage file, which is replaced by TRUNCATE, by VACUUM FULL, and by DDL that rewrites the table. */
  file: number
  /** Estimated number of rows. After a TRUNCATE it is -1 (0 before PostgreSQL 14) until the table is analyzed. */
  tuples: number
  /** Replica identity: `d` default, `f` full, `n` nothing, `i` index. */
  identity: string
  /** Digest of the table's columns and primary key. */
  digest: string
}

/** State of the source's tables and publication at one moment, read with one small query. */
export interface SourceState {
  /** The plan's tables, with their partitions. */
  tables: TableState[]
  /** Tables that the publication sends, as `schema.table`. */
  published: string[]
  /** null if the publication does not exist. */
  publication: PublicationMark | null
  /** Bare names of all tables in the schema, without partitions. */
  present: string[]
}

export async function readSourceState(db: Database, plan: Plan): Promise<SourceState> {
  const { rows } = await db.query(
    `WITH RECURSIVE tree AS (
       SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p')
       UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent)
     SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object('name', n.nspname || '.' || c.relname, 'oid', c.oid::int8,
               'file', c.relfilenode::int8, 'tuples', c.reltuples, 'identity', c.relreplident,
               'digest', md5((SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attnotnull, attgenerated, attidentity), ',' ORDER BY attnum)
                  FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
                 || coalesce((SELECT conkey::text FROM pg_catalog.pg_constraint WHERE conrelid = c.oid AND contype = 'p'), '')))
               ORDER BY 1), '[]')
               FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS tables,
            (SELECT coalesce(jsonb_agg(schemaname || '.' || tablename ORDER BY 1), '[]')
               FROM pg_catalog.pg_publication_tables WHERE pubname = $3) AS published,
            ${publicationMark(3)} AS publication,
            (SELECT coalesce(jsonb_agg(c.relname ORDER BY 1), '[]') FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition) AS present`,
    [plan.sourceSchema, plan.tables, plan.publication],
  )
  return rows[0]
}

/** Kinds of changes to a table's definition, on either side. */
export type SchemaChange =
  | 'table-gone'
  | 'table-offline'
  | 'table-created'
  | 'table-renamed'
  | 'identity-changed'
  | 'columns-changed'
  | 'column-changed'
  | 'key-changed'

export type ObservationKind =
  | SchemaChange
  | 'table-truncated'
  | 'table-rewritten'
  | 'table-unpublished'
  | 'publication-changed'
  | 'wal-lost'
  | 'wal-unreserved'
  | 'wal-budget-half-used'
  | 'wal-limit-half-used'
  | 'long-transaction'
  | 'foreign-writer'

/** Something that a watch has noticed on the source or the target. */
export interface Observation {
  kind: ObservationKind
  /** For `ddl`, the input `on-ddl` decides what happens. `fatal` always makes the stream invalid. */
  severity: 'ddl' | 'fatal' | 'warning'
  what: string
}

const SCHEMA_CHANGES: readonly ObservationKind[] = [
  'table-gone',
  'table-offline',
  'table-created',
  'table-renamed',
  'identity-changed',
  'columns-changed',
  'column-changed',
  'key-changed',
] satisfies SchemaChange[]

export function isSchemaChange(kind: ObservationKind): kind is SchemaChange {
  return SCHEMA_CHANGES.includes(kind)
}

/** Error code of a fatal observation. */
export function observationCode(kind: ObservationKind): ErrorCode {
  switch (kind) {
    case 'table-truncated':
      return 'source.truncated'
    case 'table-unpublished':
    case 'publication-changed':
      return 'publication.changed'
    case 'wal-lost':
      return 'slot.wal-lost'
    case 'table-offline':
      return 'target.table-offline'
    default:
      return 'schema.changed'
  }
}

/**
 * Finds what happened to the source's tables between two readings. The row estimate distinguishes a TRUNCATE from
 * VACUUM FULL, CLUSTER and a move to another tablespace: only TRUNCATE and DDL reset it, and DDL also changes the
 * digest.
 */
export function compareSourceStates(before: SourceState, after: SourceState, plan: Plan): Observation[] {
  const found: Observation[] = []
  const now = new Map(after.tables.map((table) => [table.oid, table]))
  for (const table of before.tables) {
    const other = now.get(table.oid)
    if (!other)
      found.push({
        kind: 'table-gone',
        severity: 'ddl',
        what: `${table.name} was dropped, renamed or detached on the source`,
      })
    else found.push(...compareState(table, other))
  }
  const known = new Set(before.tables.map((table) => table.oid))
  for (const table of after.tables)
    if (!known.has(table.oid))
      found.push({
        kind: 'table-created',
        severity: 'ddl',
        what: `${table.name} was created on the source with the name of an expected table, or as a partition of an expected table`,
      })
  for (const name of after.present)
    if (!before.present.includes(name) && !plan.tables.includes(name)) found.push(createdTable(plan, name))
  for (const name of before.published)
    if (!after.published.includes(name))
      found.push({
        kind: 'table-unpublished',
        severity: 'fatal',
        what: `the publication ${plan.publication} no longer sends ${name}: its changes since then are lost. Repeat the load`,
      })
  return [...found, ...publicationObservations(before.publication, after.publication, plan)]
}

export function createdTable(plan: Plan, name: string): Observation {
  const what = `the table ${plan.sourceSchema}.${name} was created on the source. It is not part of this migration`
  return { kind: 'table-created', severity: 'ddl', what }
}

/**
 * Finds changes to the publication. Even a change that was undone within a second may have caused row changes to be
 * skipped for good.
 */
export function publicationObservations(
  before: PublicationMark | null | undefined,
  after: PublicationMark | null,
  plan: Plan,
): Observation[] {
  // The check of the slot reports a dropped or recreated publication.
  const changes = before && after && before.oid === after.oid ? publicationChanges(before, after) : []
  if (!changes.length) return []
  return [{ kind: 'publication-changed', severity: 'fatal', what: alteredPublication(plan, changes) }]
}

export function alteredPublication(plan: Plan, changes: readonly string[]): string {
  return `the publication ${plan.publication} was altered on the source (${changes.join('; ')}): changes in between may never have been sent. Repeat the load`
}

/** Oid of a table or partition → its storage file (relfilenode), which TRUNCATE replaces. */
export type TableFiles = Record<string, number>

/**
 * Stored instead of the file of a table that has been truncated, so that the next stream reports the TRUNCATE again.
 */
const EMPTIED = -1

/** Whether the row estimate of a table is reset. Only TRUNCATE and DDL reset it, and ANALYZE sets it again. */
const isReset = ({ tuples }: TableState) => tuples <= 0

/**
 * Returns the files with which a later reading is to be compared.
 * @param known the files before this reading
 * @param before the previous reading, which shows whether DDL has run since then
 */
export function filesAfter({ tables }: SourceState, known: TableFiles = {}, before?: SourceState): TableFiles {
  const digests = new Map(before?.tables.map(({ oid, digest }) => [oid, digest]))
  const emptied = (table: TableState) =>
    known[table.oid] === EMPTIED ||
    (known[table.oid] !== undefined &&
      known[table.oid] !== table.file &&
      isReset(table) &&
      (digests.get(table.oid) ?? table.digest) === table.digest)
  const stored = tables.filter(({ file }) => file !== 0)
  return Object.fromEntries(stored.map((table) => [table.oid, emptied(table) ? EMPTIED : table.file]))
}

/** Finds tables that were truncated or rewritten since the files in `known` were read, while no stream was watching. */
export function compareFiles(known: TableFiles, { tables }: SourceState): Observation[] {
  return tables.flatMap((table): Observation[] => {
    const file = known[table.oid]
    if (file === undefined || file === table.file) return []
    if (file !== EMPTIED && !isReset(table)) return [rewritten(table)]
    const what = `${table.name} was emptied by TRUNCATE on the source, or rewritten by DDL, since the load began. The stream does not replicate a TRUNCATE, so the target may still have the old rows. Repeat the load`
    return [{ kind: 'table-truncated', severity: 'fatal', what }]
  })
}

function rewritten({ name }: TableState): Observation {
  const what = `${name} was rewritten on the source (by VACUUM FULL or CLUSTER, for example). A TRUNCATE followed by new rows and ANALYZE looks the same; only \`verify\` can tell them apart`
  return { kind: 'table-rewritten', severity: 'warning', what }
}

function compareState(before: TableState, after: TableState): Observation[] {
  const found: Observation[] = []
  if (before.name !== after.name)
    found.push({
      kind: 'table-renamed',
      severity: 'ddl',
      what: `${before.name} was renamed to ${after.name} on the source`,
    })
  if (before.identity !== after.identity)
    found.push({
      kind: 'identity-changed',
      severity: 'ddl',
      what: `on the source, REPLICA IDENTITY of ${after.name} was changed from ${identityName(before.identity)} to ${identityName(after.identity)}`,
    })
  if (before.digest !== after.digest)
    found.push({
      kind: 'columns-changed',
      severity: 'ddl',
      what: `the columns or the key of ${after.name} were changed on the source`,
    })
  else if (before.file !== after.file && isReset(after) && before.file !== 0)
    found.push({
      kind: 'table-truncated',
      severity: 'fatal',
      what: `${after.name} was emptied by TRUNCATE on the source. The stream does not replicate that, so the target still has the rows. Repeat the load`,
    })
  else if (before.file !== after.file) found.push(rewritten(after))
  return found
}

function identityName(identity: string): string {
  return ({ d: 'DEFAULT', f: 'FULL', n: 'NOTHING', i: 'USING INDEX' } as Record<string, string>)[identity] ?? identity
}
