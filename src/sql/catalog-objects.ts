import type { SchemaObject } from '../model/catalog.ts'

/** Runs a query with the schema's oid as $1. */
type Read = (sql: string) => Promise<SchemaObject[]>

const MEMBER = (catalog: string, oid: string) =>
  `EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = 'pg_catalog.${catalog}'::regclass AND m.objid = ${oid} AND m.deptype = 'e')`

const OURS = "s.nspname = 'molt_actions'"

/** A schema's collations, including ICU rules and the built-in provider, which only newer servers have. */
const COLLATIONS = `
  SELECT 'collation' AS kind, l.collname AS name, NULL AS table, 'CREATE COLLATION ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) || ' ('
          || CASE f->>'collprovider' WHEN 'c' THEN 'provider = libc, lc_collate = ' || quote_literal(l.collcollate) || ', lc_ctype = ' || quote_literal(l.collctype)
               ELSE 'provider = ' || CASE f->>'collprovider' WHEN 'i' THEN 'icu' ELSE 'builtin' END || ', locale = '
                 || quote_literal(coalesce(f->>'colllocale', f->>'colliculocale', l.collcollate, '')) END
          || CASE WHEN f->>'collisdeterministic' = 'false' THEN ', deterministic = false' ELSE '' END
          || coalesce(', rules = ' || quote_literal(f->>'collicurules'), '') || ')' AS definition
     FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace, to_jsonb(l) f
    WHERE l.collnamespace = $1::oid AND NOT ${MEMBER('pg_collation', 'l.oid')} ORDER BY l.oid`

/** Queries that return the columns kind, name, table and definition. */
const OBJECTS = [
  `SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END AS kind, c.relname AS name, NULL AS table,
          'CREATE ' || CASE c.relkind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END || c.oid::regclass
          || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || ' AS' || chr(10) || pg_catalog.pg_get_viewdef(c.oid)
          || coalesce((SELECT string_agg(chr(10) || pg_catalog.pg_get_indexdef(i.indexrelid) || ';', '' ORDER BY i.indexrelid::regclass::text)
               FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid), '') AS definition
     FROM pg_catalog.pg_class c WHERE c.relnamespace = $1::oid AND c.relkind IN ('v', 'm') AND NOT ${MEMBER('pg_class', 'c.oid')}`,
  `SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window function' ELSE 'function' END AS kind,
          p.proname || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' AS name, NULL AS table,
          CASE WHEN p.prokind = 'a' THEN 'aggregate ' || p.oid::regprocedure ELSE pg_catalog.pg_get_functiondef(p.oid) END AS definition
     FROM pg_catalog.pg_proc p WHERE p.pronamespace = $1::oid AND NOT ${MEMBER('pg_proc', 'p.oid')}
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')`,
  `SELECT 'trigger' AS kind, t.tgname AS name, c.relname AS table, pg_catalog.pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'D' THEN '; -- disabled'
          WHEN 'R' THEN '; -- for replicas only' WHEN 'A' THEN '; -- for replicas too' ELSE '' END AS definition
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
  COLLATIONS,
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
  `SELECT 'cast' AS kind, pg_catalog.format_type(k.castsource, NULL) || ' AS ' || pg_catalog.format_type(k.casttarget, NULL) AS name, NULL AS table,
          'CREATE CAST (' || pg_catalog.format_type(k.castsource, NULL) || ' AS ' || pg_catalog.format_type(k.casttarget, NULL) || ') '
          || CASE k.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || k.castfunc::regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END
          || CASE k.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END AS definition
     FROM pg_catalog.pg_cast k WHERE k.oid >= 16384 AND $1::oid IS NOT NULL AND NOT ${MEMBER('pg_cast', 'k.oid')}`,
  // Publications of every kind: for tables, for schemas and for all tables. Leaves out MOLT's own publication.
  `SELECT 'publication' AS kind, p.pubname AS name, NULL AS table,
          'CREATE PUBLICATION ' || quote_ident(p.pubname) || ' FOR ' || CASE WHEN b.puballtables THEN 'ALL TABLES'
            ELSE 'TABLE ' || string_agg(quote_ident(p.schemaname) || '.' || quote_ident(p.tablename), ', ' ORDER BY p.tablename COLLATE "C") END AS definition
     FROM pg_catalog.pg_publication_tables p JOIN pg_catalog.pg_publication b ON b.pubname = p.pubname
     JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
    WHERE n.oid = $1::oid AND p.pubname <> 'molt_fetch' GROUP BY p.pubname, b.puballtables`,
  `SELECT 'subscription' AS kind, subname AS name, NULL AS table, 'CREATE SUBSCRIPTION ' || quote_ident(subname) AS definition
     FROM pg_catalog.pg_subscription WHERE $1::oid IS NOT NULL
      AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())`,
  `SELECT 'language' AS kind, lanname AS name, NULL AS table, 'CREATE LANGUAGE ' || quote_ident(lanname) AS definition
     FROM pg_catalog.pg_language l WHERE l.oid >= 16384 AND $1::oid IS NOT NULL AND NOT ${MEMBER('pg_language', 'l.oid')}`,
  `SELECT 'transform' AS kind, pg_catalog.format_type(t.trftype, NULL) || ' ' || l.lanname AS name, NULL AS table,
          'CREATE TRANSFORM FOR ' || pg_catalog.format_type(t.trftype, NULL) || ' LANGUAGE ' || quote_ident(l.lanname) AS definition
     FROM pg_catalog.pg_transform t JOIN pg_catalog.pg_language l ON l.oid = t.trflang
    WHERE $1::oid IS NOT NULL AND NOT ${MEMBER('pg_transform', 't.oid')}`,
  `SELECT 'foreign-data wrapper' AS kind, fdwname AS name, NULL AS table, 'CREATE FOREIGN DATA WRAPPER ' || quote_ident(fdwname) AS definition
     FROM pg_catalog.pg_foreign_data_wrapper f WHERE $1::oid IS NOT NULL AND NOT ${MEMBER('pg_foreign_data_wrapper', 'f.oid')}
   UNION ALL SELECT 'foreign server', srvname, NULL, 'CREATE SERVER ' || quote_ident(srvname) || ' FOREIGN DATA WRAPPER ' || quote_ident(f.fdwname)
     FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_foreign_data_wrapper f ON f.oid = s.srvfdw WHERE $1::oid IS NOT NULL`,
  `SELECT 'setting' AS kind, CASE d.setrole WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(d.setrole) || ' ' END || split_part(c, '=', 1) AS name, NULL AS table,
          CASE d.setrole WHEN 0 THEN 'ALTER DATABASE ' || quote_ident(current_database()) ELSE 'ALTER ROLE ' || quote_ident(pg_catalog.pg_get_userbyid(d.setrole))
            || CASE d.setdatabase WHEN 0 THEN '' ELSE ' IN DATABASE ' || quote_ident(current_database()) END END
          || ' SET ' || split_part(c, '=', 1) || ' = ' || CASE WHEN c LIKE 'search_path=%' THEN substr(c, 13)
             WHEN s.name IS NULL THEN '-- value left out' ELSE quote_literal(substr(c, strpos(c, '=') + 1)) END AS definition
     FROM pg_catalog.pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) c
     -- Custom parameters of an application may contain secrets.
     LEFT JOIN pg_catalog.pg_settings s ON lower(s.name) = lower(split_part(c, '=', 1)) AND strpos(s.name, '.') = 0
    WHERE $1::oid IS NOT NULL AND d.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())`,
  `SELECT 'security label' AS kind, l.objtype || ' ' || l.objname AS name, NULL AS table,
          'SECURITY LABEL FOR ' || quote_ident(l.provider) || ' ON ' || l.objtype || ' ' || l.objname || ' IS ' || quote_literal(l.label) AS definition
     FROM pg_catalog.pg_seclabels l WHERE l.objnamespace = $1::oid`,
]

/**
 * All other objects that depend on the schema or its tables, with the server's name for their kind: base types,
 * operators, text search configurations, and kinds that only newer servers have.
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
              'pg_catalog.pg_proc'::regclass))
     AND i.type NOT LIKE 'publication %'
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = d.classid AND m.objid = d.objid AND m.deptype = 'e')`

/** Reads the CREATE statements of a schema's collations, as for PostgreSQL. */
export async function readCollations(read: Read): Promise<string[]> {
  return (await read(COLLATIONS)).map(({ definition }) => definition)
}

/** Reads the schema's views, routines, policies and other objects, and the database's extensions and event triggers. */
export async function readObjects(read: Read): Promise<SchemaObject[]> {
  const found = await read([...OBJECTS, OTHERS].map((sql) => `(${sql})`).join(' UNION ALL '))
  const key = ({ kind, table, name, definition }: SchemaObject) => JSON.stringify([kind, table ?? '', name, definition])
  return found
    .map(({ kind, name, table, definition }) => ({ kind, name, table, definition: definition.trimEnd() }))
    .sort((a, b) => (key(a) < key(b) ? -1 : 1))
}
