import type { SchemaObject } from '../model/catalog.ts'

/** Runs a statement whose $1 is the schema's oid. */
type Read = (sql: string) => Promise<SchemaObject[]>

const MEMBER = (catalog: string, oid: string) =>
  `EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = 'pg_catalog.${catalog}'::regclass AND m.objid = ${oid} AND m.deptype = 'e')`

const OURS = "s.nspname = 'molt_actions'"

/** Each has the columns kind, name, table and definition. */
const OBJECTS = [
  `SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END AS kind, c.relname AS name, NULL AS table,
          'CREATE ' || CASE c.relkind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END || c.oid::regclass || ' AS' || chr(10) || pg_catalog.pg_get_viewdef(c.oid) AS definition
     FROM pg_catalog.pg_class c WHERE c.relnamespace = $1::oid AND c.relkind IN ('v', 'm') AND NOT ${MEMBER('pg_class', 'c.oid')}`,
  `SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window function' ELSE 'function' END AS kind,
          p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' AS name, NULL AS table,
          CASE WHEN p.prokind = 'a' THEN 'aggregate ' || p.oid::regprocedure ELSE pg_catalog.pg_get_functiondef(p.oid) END AS definition
     FROM pg_catalog.pg_proc p WHERE p.pronamespace = $1::oid AND NOT ${MEMBER('pg_proc', 'p.oid')}
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')`,
  `SELECT 'trigger' AS kind, t.tgname AS name, c.relname AS table, pg_catalog.pg_get_triggerdef(t.oid) AS definition
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
     JOIN pg_catalog.pg_namespace s ON s.oid = p.pronamespace
    WHERE c.relnamespace = $1::oid AND NOT t.tgisinternal AND NOT (${OURS}) AND coalesce((to_jsonb(t)->>'tgparentid')::int8, 0) = 0`,
  `SELECT 'rule' AS kind, r.rulename AS name, c.relname AS table, pg_catalog.pg_get_ruledef(r.oid) AS definition
     FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE c.relnamespace = $1::oid AND r.rulename <> '_RETURN'`,
  `SELECT 'policy' AS kind, p.polname AS name, c.relname AS table,
          'CREATE POLICY ' || quote_ident(p.polname) || ' ON ' || c.oid::regclass || CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END
          || ' FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
          || ' TO ' || (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(role)) END, ', ' ORDER BY role) FROM unnest(p.polroles) role)
          || coalesce(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', '')
          || coalesce(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') AS definition
     FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = $1::oid`,
  `SELECT 'statistics' AS kind, x.stxname AS name, c.relname AS table, pg_catalog.pg_get_statisticsobjdef(x.oid) AS definition
     FROM pg_catalog.pg_statistic_ext x JOIN pg_catalog.pg_class c ON c.oid = x.stxrelid WHERE x.stxnamespace = $1::oid`,
  `SELECT 'collation' AS kind, l.collname AS name, NULL AS table, 'CREATE COLLATION ' || l.oid::regcollation || ' (locale = '
          || quote_literal(coalesce(to_jsonb(l)->>'colllocale', to_jsonb(l)->>'colliculocale', l.collcollate, '')) || ', deterministic = ' || coalesce(to_jsonb(l)->>'collisdeterministic', 'true') || ')' AS definition
     FROM pg_catalog.pg_collation l WHERE l.collnamespace = $1::oid AND NOT ${MEMBER('pg_collation', 'l.oid')}`,
  `SELECT 'grant' AS kind, g.object AS name, g.of AS table, 'GRANT ' || string_agg(g.privilege || g.columns, ', ' ORDER BY g.privilege) || ' ON ' || g.object || ' TO ' || g.grantee
          || CASE WHEN g.grantable THEN ' WITH GRANT OPTION' ELSE '' END AS definition
     FROM (SELECT c.relname AS of, CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass AS object, x.privilege_type AS privilege, '' AS columns, x.is_grantable AS grantable,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee
             FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
            WHERE c.relnamespace = $1::oid AND x.grantee <> c.relowner AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
           UNION ALL SELECT c.relname, 'TABLE ' || c.oid::regclass, x.privilege_type, ' (' || quote_ident(a.attname) || ')', x.is_grantable,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attacl IS NOT NULL CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x
            WHERE c.relnamespace = $1::oid AND x.grantee <> c.relowner
           UNION ALL SELECT NULL, 'SCHEMA ' || n.oid::regnamespace, x.privilege_type, '', x.is_grantable,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END
             FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) x
            WHERE n.oid = $1::oid AND x.grantee <> n.nspowner AND NOT (n.nspname = 'public' AND x.grantee = 0)) g
    GROUP BY g.object, g.of, g.grantee, g.grantable`,
  `SELECT 'default privileges' AS kind, pg_catalog.pg_get_userbyid(d.defaclrole)::text AS name, NULL AS table,
          'ALTER DEFAULT PRIVILEGES FOR ROLE ' || quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole)) || ': ' || d.defaclobjtype::text || ' ' || d.defaclacl::text AS definition
     FROM pg_catalog.pg_default_acl d WHERE d.defaclnamespace IN (0, $1::oid)`,
  `SELECT 'extension' AS kind, extname AS name, NULL AS table, 'CREATE EXTENSION ' || quote_ident(extname) || ' VERSION ' || quote_literal(extversion) AS definition
     FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' AND $1::oid IS NOT NULL`,
  `SELECT 'event trigger' AS kind, evtname AS name, NULL AS table, 'CREATE EVENT TRIGGER ' || quote_ident(evtname) || ' ON ' || evtevent || ' EXECUTE FUNCTION ' || evtfoid::regproc || '()' AS definition
     FROM pg_catalog.pg_event_trigger WHERE $1::oid IS NOT NULL AND NOT ${MEMBER('pg_event_trigger', 'pg_event_trigger.oid')}`,
]

/**
 * All other objects that the catalog records for the schema or its tables, by the server's name for their kind: base
 * types, operators, text search configurations, and kinds of newer servers that this reader does not know.
 */
const OTHERS = `
  SELECT DISTINCT i.type AS kind, i.identity AS name, NULL AS table, i.type || ' ' || i.identity AS definition
    FROM pg_catalog.pg_depend d CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
    LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_catalog.pg_type t ON d.classid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objid
   WHERE (d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = $1::oid
            AND d.classid NOT IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_collation'::regclass, 'pg_catalog.pg_statistic_ext'::regclass, 'pg_catalog.pg_default_acl'::regclass, 'pg_catalog.pg_extension'::regclass)
            AND coalesce(c.relkind NOT IN ('r', 'p', 'f', 'v', 'm', 'S', 'c'), true) AND coalesce(t.typtype NOT IN ('e', 'd', 'r', 'c', 'm'), true)
       OR d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid IN (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = $1::oid AND relkind IN ('r', 'p'))
            AND d.classid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass, 'pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_attrdef'::regclass,
              'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_statistic_ext'::regclass,
              'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_publication_rel'::regclass))
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = d.classid AND m.objid = d.objid AND m.deptype = 'e')`

/** Views, code, security and all other objects of the schema; extensions and event triggers of the database. */
export async function readObjects(read: Read): Promise<SchemaObject[]> {
  const found: SchemaObject[] = []
  for (const sql of [...OBJECTS, OTHERS]) found.push(...(await read(sql)))
  const key = ({ kind, table, name, definition }: SchemaObject) => JSON.stringify([kind, table ?? '', name, definition])
  return found
    .map(({ kind, name, table, definition }) => ({ kind, name, table, definition: definition.trimEnd() }))
    .sort((a, b) => (key(a) < key(b) ? -1 : 1))
}
