import type { Plan } from '../model/plan.ts'
import type { ErrorCode } from '../runtime/codes.ts'
import type { Database } from '../runtime/database.ts'
import { type PublicationMark, publicationChanges, publicationMark } from './publication.ts'

/** One table of the plan, or a partition below it, as the source's catalog has it at a moment. */
interface TableState {
  /** As `schema.table`. */
  name: string
  oid: number
  /** The file that holds its rows; TRUNCATE, VACUUM FULL and rewriting DDL give it another one. */
  file: number
  /** -1 (0 before PostgreSQL 14) after a TRUNCATE, until the table is analysed. */
  tuples: number
  /** `d` default, `f` full, `n` nothing, `i` index. */
  identity: string
  /** A digest of its columns and key. */
  digest: string
}

/** The plan's tables with their partitions, the publication's tables, and the schema's tables: one small query. */
export interface SourceState {
  tables: TableState[]
  /** As `schema.table`: what the publication sends. */
  published: string[]
  /** null when it is gone. */
  publication: PublicationMark | null
  /** Bare names of every table of the schema, partitions left out. */
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

/** What was done to a table's definition, on either side. */
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

/** Something that a watch saw. */
export interface Observation {
  kind: ObservationKind
  /** `ddl` is judged by `on-ddl`; `fatal` makes the stream's result wrong whatever is set. */
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

/** The code of the error that a fatal observation becomes. */
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
 * What happened to the source's tables between two looks. A TRUNCATE is told from VACUUM FULL, CLUSTER and a move to
 * another tablespace by the row estimate: only TRUNCATE and DDL reset it, and DDL changes the digest as well.
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
        what: `${table.name} was created on the source under a name of this migration, or as a partition below one`,
      })
  for (const name of after.present)
    if (!before.present.includes(name) && !plan.tables.includes(name)) found.push(createdTable(plan, name))
  for (const name of before.published)
    if (!after.published.includes(name))
      found.push({
        kind: 'table-unpublished',
        severity: 'fatal',
        what: `the publication ${plan.publication} does not send ${name} any more: its changes since then are lost, and the load must be repeated`,
      })
  return [...found, ...publicationObservations(before.publication, after.publication, plan)]
}

export function createdTable(plan: Plan, name: string): Observation {
  const what = `the table ${plan.sourceSchema}.${name} was created on the source; it is not part of this migration`
  return { kind: 'table-created', severity: 'ddl', what }
}

/** A change of what is sent, even one that was undone within a second, may have held changes back permanently. */
export function publicationObservations(
  before: PublicationMark | null | undefined,
  after: PublicationMark | null,
  plan: Plan,
): Observation[] {
  // A dropped one is noticed when the slot is read, whether or not another one has its name.
  const changes = before && after && before.oid === after.oid ? publicationChanges(before, after) : []
  if (!changes.length) return []
  return [{ kind: 'publication-changed', severity: 'fatal', what: alteredPublication(plan, changes) }]
}

export function alteredPublication(plan: Plan, changes: readonly string[]): string {
  return `the publication ${plan.publication} was altered on the source (${changes.join('; ')}): changes in between may never have been sent, and the load must be repeated`
}

/** Oid of a table or partition → the file that holds its rows (relfilenode), which TRUNCATE replaces. */
export type TableFiles = Record<string, number>

/** In place of the file of a table that was seen emptied: the next stream tells it again. */
const EMPTIED = -1

/** TRUNCATE and DDL alone reset the estimate of a table's rows, until it is analysed. */
const isReset = ({ tuples }: TableState) => tuples <= 0

/**
 * The files to hold a later look against.
 * @param known the files before this look
 * @param before the look before this one, which tells DDL
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

/** What was done to the source's tables since they had these files, while no stream was there to see it. */
export function compareFiles(known: TableFiles, { tables }: SourceState): Observation[] {
  return tables.flatMap((table): Observation[] => {
    const file = known[table.oid]
    if (file === undefined || file === table.file) return []
    if (file !== EMPTIED && !isReset(table)) return [rewritten(table)]
    const what = `${table.name} was emptied by TRUNCATE on the source, or rewritten by DDL, since the load began; no stream carries that: the target may still have its rows, and the load must be repeated`
    return [{ kind: 'table-truncated', severity: 'fatal', what }]
  })
}

function rewritten({ name }: TableState): Observation {
  const what = `${name} was rewritten on the source (VACUUM FULL, CLUSTER or the like); a TRUNCATE after which it was filled and analysed looks the same, and only a verify tells`
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
      what: `REPLICA IDENTITY of ${after.name} was changed from ${identityName(before.identity)} to ${identityName(after.identity)} on the source`,
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
      what: `a TRUNCATE was run on ${after.name} on the source, which the stream does not carry: the target still has its rows, and the load must be repeated`,
    })
  else if (before.file !== after.file) found.push(rewritten(after))
  return found
}

function identityName(identity: string): string {
  return ({ d: 'DEFAULT', f: 'FULL', n: 'NOTHING', i: 'USING INDEX' } as Record<string, string>)[identity] ?? identity
}
