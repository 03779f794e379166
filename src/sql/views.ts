import { type Database, qualified } from '../runtime/database.ts'

const VIEWS = `
  SELECT c.relname::text AS name, c.relkind = 'm' AS materialized
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = $1 AND c.relkind IN ('v', 'm')`
/** Excludes views that belong to extensions, such as pg_stat_statements. */
const OWN = ` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
   WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')`

/**
 * Lists the source's views that the target lacks, and materialized views that may not have been refreshed since the load. No
 * tool moves views.
 */
export async function viewProblems(
  source: { db: Database; schema: string },
  target: { db: Database; schema: string },
): Promise<string[]> {
  const [here, there] = await Promise.all([
    source.db.query(`${VIEWS}${OWN} ORDER BY 1`, [source.schema]),
    target.db.query(VIEWS, [target.schema]),
  ])
  const known = new Map(there.rows.map((row) => [row.name, row]))
  return here.rows.flatMap(({ name, materialized }) => {
    const found = known.get(name)
    if (!found)
      return `the ${materialized ? 'materialized view' : 'view'} ${name} is missing on the target. Create it before the application needs it`
    if (!found.materialized) return []
    return `the materialized view ${name} on the target does not follow the tables. After the switch, run REFRESH MATERIALIZED VIEW ${qualified(target.schema, name)}`
  })
}
