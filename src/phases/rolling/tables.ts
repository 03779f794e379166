import { createHash } from 'node:crypto'
import type { DeferredName } from '../../destination/deferral.ts'
import type { Plan } from '../../model/plan.ts'
import { byName } from '../../model/records.ts'
import { compareTables, type Table } from '../../model/tables.ts'
import { type Database, qualified } from '../../runtime/database.ts'
import { readTables } from '../../sql/tables.ts'
import { hidesTriggers } from '../../sql/triggers.ts'
import { type RowShape, rowShape } from '../verify/row-digests.ts'

/** A table whose rows can be proved while changes stream. */
export interface ProvableTable extends RowShape {
  /** Names of the key's columns in the order of the key's index. */
  keyIndex: string[]
  /** Whether both servers sort keys the same way, so that a range of keys holds the same rows on both. */
  ordered: boolean
  /**
   * Changes whenever rows may have changed without an entry in the log. A hash of the files (relfilenode) of the table and
   * its partitions, which TRUNCATE, a rewrite, ATTACH and DETACH change; of the table's entry in the publication; and of
   * both sides' columns, because a column that was dropped and added again has a new number.
   */
  files: string
}

export interface Provable {
  tables: ProvableTable[]
  /** Table → why it must be compared in full. */
  others: Record<string, string>
}

/** A table and its partitions, from the source's catalog. */
interface Storage {
  name: string
  kind: string
  files: string
  identity: boolean
  immediate: boolean
  generated: boolean
  inherited: boolean
  /** Whether a key column's collation treats strings with different bytes as equal. */
  loose: boolean
}

/**
 * Finds the tables that can be proved while changes stream, and why each other table must be compared in full. Called
 * before the first pass, during the proof and in the write pause, because a change to a table voids its proof.
 * @param rebuilt foreign keys that this run may currently be rebuilding, while nothing writes to the target
 */
export async function readProvable(
  source: Database,
  target: Database,
  plan: Plan,
  rebuilt: readonly DeferredName[] = [],
): Promise<Provable> {
  const [[here, storage], [there, states]] = await Promise.all([
    (async () => [await readTables(source, plan.sourceSchema), await readStorage(source, plan)] as const)(),
    (async () =>
      [await readTables(target, plan.targetSchema), await readTargetStates(target, plan, rebuilt)] as const)(),
  ])
  const { rows } = await source.query("SELECT current_setting('server_version_num')::int >= 130000 AS rooted")
  const found: Provable = { tables: [], others: byName() }
  for (const name of plan.tables) {
    const pair = [here, there].map((tables) => tables.find((table) => table.name === name))
    const [a, b] = pair
    const of = storage.get(name)
    if (!a || !b || !of) {
      found.others[name] = 'it is missing on one side'
      continue
    }
    const { columns = '', hazard } = states.get(name) ?? {}
    const reason = keyProblem(a, b, of, rows[0].rooted) ?? hazard
    if (reason) found.others[name] = reason
    else found.tables.push(provable(a, b, [of.files, columns]))
  }
  return found
}

function provable(here: Table, there: Table, state: readonly string[]): ProvableTable {
  const shape = rowShape([here, there])
  // The log lists a key in the order of the table's columns.
  const key = here.columns.filter(({ name }) => here.key.includes(name))
  const all = JSON.stringify([state, here.key, shape.parts])
  const files = createHash('md5').update(all).digest('hex')
  return { ...shape, key, keyIndex: here.key, ordered: key.every(({ type }) => ORDERED.test(type)), files }
}

/** Types that both servers sort the same way. Text is not one of them, because its order depends on the collation. */
const ORDERED = /^(smallint|integer|bigint|uuid|boolean|date|timestamp.*)$/
/** Key types whose text in the change log identifies the row on both servers. */
const READABLE =
  /^(smallint|integer|bigint|uuid|boolean|date|timestamp.*|text|character varying.*|numeric\(\d+(,[0-6])?\))$/

/** The type to cast a key's text to, so that keys are compared by value. */
export function keyCast(type: string): string {
  if (/^(text|character varying)/.test(type)) return 'text'
  return type.replace(/\(.*?\)/, '')
}

function keyProblem(here: Table, there: Table, of: Storage, rooted: boolean): string | undefined {
  if (!here.key.length) return 'it has no primary key'
  if (compareTables([here], [there]).length) return 'its definition is not the same on both sides'
  if (!of.identity) return 'its replica identity is not DEFAULT'
  if (!of.immediate) return 'its primary key is deferrable'
  if (of.generated) return 'its primary key is generated'
  if (of.loose) return "its key's collation is not deterministic"
  if (of.inherited) return 'other tables inherit from it'
  if (of.kind === 'p' && !rooted) return "PostgreSQL 12 logs changes under the names of the table's partitions"
  const odd = here.columns.find(({ name, type, labels }) => here.key.includes(name) && (labels || !READABLE.test(type)))
  if (odd) return `its key column ${odd.name} has the type ${odd.type}`
  const shape = rowShape([here, there])
  return shape.key.some(shape.odd) ? 'the two servers print its key differently' : undefined
}

async function readStorage(source: Database, plan: Plan): Promise<Map<string, Storage>> {
  const { rows } = await source.query<Storage>(
    `WITH RECURSIVE tree AS (
       SELECT c.oid AS root, c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p')
       UNION SELECT tree.root, i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent)
     SELECT r.relname AS name, r.relkind AS kind,
            md5(concat_ws(' ', string_agg(concat_ws(':', c.oid, c.relfilenode), ' ' ORDER BY c.oid),
              (SELECT string_agg(concat_ws(':', a.attnum, a.attname), ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped),
              (SELECT concat_ws(':', p.oid, p.xmin, m.oid, m.xmin) FROM pg_catalog.pg_publication p
                 LEFT JOIN pg_catalog.pg_publication_rel m ON m.prpubid = p.oid AND m.prrelid = r.oid
                WHERE p.pubname = $3))) AS files,
            bool_or(EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
                             WHERE a.attrelid = c.oid AND a.attnum = ANY (x.indkey) AND NOT l.collisdeterministic)) AS loose,
            bool_and(c.relreplident = 'd') AS identity, bool_and(coalesce(x.indimmediate, false)) AS immediate,
            bool_or(EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> ''
                             AND a.attnum = ANY (x.indkey))) AS generated,
            r.relkind = 'r' AND count(*) > 1 AS inherited
       FROM tree JOIN pg_catalog.pg_class r ON r.oid = tree.root JOIN pg_catalog.pg_class c ON c.oid = tree.oid
       LEFT JOIN pg_catalog.pg_index x ON x.indrelid = c.oid AND x.indisprimary
      GROUP BY r.oid, r.relname, r.relkind`,
    [plan.sourceSchema, plan.tables, plan.publication],
  )
  return new Map(rows.map((row) => [row.name, row]))
}

interface TargetState {
  /** The columns, with their numbers. */
  columns: string
  /** Why rows can change on the target without a change on the source. */
  hazard?: string
}

async function readTargetStates(
  target: Database,
  { targetSchema, tables }: Plan,
  rebuilt: readonly DeferredName[],
): Promise<Map<string, TargetState>> {
  const { rows } = await target.query(
    `SELECT c.relname AS name, coalesce(array_to_string(c.reloptions, ' '), '') ~ '(^| )ttl' AS expires,
            (SELECT string_agg(a.attnum::text || ':' || a.attname::text, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped IS NOT TRUE) AS columns,
            EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgisinternal IS NOT TRUE) AS triggers,
            EXISTS (SELECT 1 FROM pg_catalog.pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
                     AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
                     AND NOT (c.relname::text || '.' || f.conname::text) = ANY($3)) AS cascades
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p')`,
    [targetSchema, tables, foreignKeys(targetSchema, rebuilt)],
  )
  const { version } = (await target.query('SELECT version() AS version')).rows[0]
  const found = new Map<string, TargetState>()
  for (const { name, columns, expires, triggers, cascades } of rows) {
    const hidden = hidesTriggers(version) && !triggers
    const shown = hidden ? await target.query(`SHOW TRIGGERS FROM ${qualified(targetSchema, name)}`) : undefined
    const hazard = hazardOf({ expires, triggers: triggers || Boolean(shown?.rowCount), cascades })
    found.set(name, { columns, ...(hazard && { hazard }) })
  }
  return found
}

function foreignKeys(schema: string, rebuilt: readonly DeferredName[]): string[] {
  const ours = rebuilt.filter((each) => each.kind === 'foreign-key' && each.schema === schema)
  return ours.map(({ table, name }) => `${table}.${name}`)
}

function hazardOf(has: Record<'expires' | 'triggers' | 'cascades', boolean>): string | undefined {
  if (has.expires) return 'its rows expire on the target (row-level TTL)'
  if (has.triggers) return 'it has triggers on the target'
  return has.cascades ? 'a cascading foreign key on the target changes its rows' : undefined
}
