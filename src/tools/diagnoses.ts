/** Causes of a stuck stream. */
type DiagnosisKind =
  | 'truncate'
  | 'toast'
  | 'identity'
  | 'column'
  | 'no-key'
  | 'missing-table'
  | 'name-collision'
  | 'publication'
  | 'slot-busy'
  | 'slot-gone'
  | 'slot-invalid'
  | 'unique'
  | 'foreign-key'
  | 'not-null'
  | 'check'
  | 'identity-always'
  | 'type'
  | 'trigger'
  | 'timeout'
  | 'connection-limit'
  | 'permission'
  | 'read-only'
  | 'schema-name'
  | 'connection'
  | 'contention'
  | 'other'

/** Why a stream is stuck, and how to fix it. */
export interface Diagnosis {
  kind: DiagnosisKind
  /** The cause and, after a semicolon, the fix. Used after "because". */
  why: string
}

/** Splits the last `"database"."schema"."table"` (or `….column`) in a message into its names. */
function namesIn(said: string): string[] {
  const dotted = [...said.matchAll(/"(?:[^"]|"")*"(?:\."(?:[^"]|"")*"){2,3}/g)].at(-1)?.[0] ?? ''
  return [...dotted.matchAll(/"((?:[^"]|"")*)"/g)].map(([, name]) => (name as string).replaceAll('""', '"'))
}

function tableIn(said: string): string {
  const [, schema, table] = namesIn(said)
  if (schema && table) return `${schema}.${table}`
  const relation = /\b(?:relation|table) "((?:[^"]|"")+)"/.exec(said)?.[1]
  return relation ?? 'a table'
}

const named = (regex: RegExp, said: string, otherwise: string) => regex.exec(said)?.[1] ?? otherwise

/** Diagnoses by message, from specific to general. The first match wins. */
const DIAGNOSES: [RegExp, DiagnosisKind, (said: string) => string][] = [
  [
    /TRUNCATE/i,
    'truncate',
    () =>
      'a TRUNCATE was run on the source, which the replicator cannot apply; load again, and empty tables with DELETE until the cutover is over',
  ],
  [
    /toasted\.tmpl/i,
    'toast',
    () =>
      'an UPDATE left a large (TOASTed) value unchanged, and `--enableToastedColumns` of this replicator does not work on this target; let the application write that column in every UPDATE',
  ],
  [
    /TOASTed columns|unchanged toast/i,
    'toast',
    (said) => {
      const column = namesIn(said)[3]
      const place = column ? `column ${column} of ${tableIn(said)}` : tableIn(said)
      return `an UPDATE left a large (TOASTed) value in ${place} unchanged, which this replicator cannot apply; use a newer replicator, or let the application write that column in every UPDATE`
    },
  ],
  [
    /inconsistent number of key columns/i,
    'identity',
    (said) =>
      `the keys of ${tableIn(said)} do not match: the source sends ${named(/received (\d+)/, said, 'other')} key columns, but the target's primary key has ${named(/expect (\d+)/, said, 'different ones')}; set REPLICA IDENTITY DEFAULT and give both sides the same primary key`,
  ],
  [
    /missing PK columns: rowid/i,
    'no-key',
    (said) => `${tableIn(said)} has no primary key on the target; create the source's key there`,
  ],
  [
    /missing PK columns/i,
    'identity',
    (said) =>
      `the source does not send the key column ${named(/missing PK columns: ([^;]+)$/, said, '')} that ${tableIn(said)} has on the target; give both sides the same primary key`,
  ],
  [
    /unexpected columns/i,
    'column',
    (said) =>
      `the source sends the column ${named(/unexpected columns: (.+?)(?:$| \()/, said, '(unnamed)')} of ${tableIn(said)}, which the target does not have; add it to the target, and the stream continues within a minute`,
  ],
  [
    /column "[^"]*" of relation "[^"]*" does not exist/i,
    'column',
    (said) =>
      `the target has no column ${named(/column "([^"]*)"/, said, '(unnamed)')} in ${named(/relation "([^"]*)"/, said, 'the table')}; add it to the target, and the stream continues within a minute`,
  ],
  [
    /column name collision/i,
    'name-collision',
    (said) => `${tableIn(said)} has two columns whose names differ only in case; rename one of them`,
  ],
  [
    /schema drift|inconsistent number of columns/i,
    'column',
    (said) => `the columns of ${tableIn(said)} differ between source and target; make the same change on both`,
  ],
  [
    /publication .* does not exist/i,
    'publication',
    (said) =>
      `the publication ${named(/publication "([^"]+)"/, said, '')} no longer exists; recreating it does not repair the stream, so abort and start over with a new slot`,
  ],
  [
    /replication slot .* is active for PID/i,
    'slot-busy',
    (said) =>
      `another process is reading the slot ${named(/slot "([^"]+)"/, said, '')} (PID ${named(/PID (\d+)/, said, 'unknown')} on the source); end that process`,
  ],
  [
    /replication slot .* does not exist/i,
    'slot-gone',
    (said) =>
      `the slot ${named(/slot "([^"]+)"/, said, '')} no longer exists, so all later changes are lost; abort, then prepare and load again`,
  ],
  [
    /can no longer (get changes|access)|invalidated|requested WAL segment .* removed/i,
    'slot-invalid',
    () => 'the source has removed WAL that the slot needs; abort, then prepare and load again',
  ],
  [
    /23505|duplicate key value/i,
    'unique',
    (said) =>
      `a unique value moved from one row of ${tableIn(said)} to another, which the target's ${named(/constraint "([^"]+)"/, said, 'unique index')} rejects; drop that index on the target until after the drain`,
  ],
  [
    /428C9|GENERATED ALWAYS|non-DEFAULT value into column/i,
    'identity-always',
    (said) =>
      `the target's column ${named(/column "([^"]+)"/, said, '(unnamed)')} of ${tableIn(said)} is GENERATED ALWAYS AS IDENTITY; make it BY DEFAULT`,
  ],
  [
    /23503|foreign key constraint/i,
    'foreign-key',
    (said) =>
      `the target's foreign key ${named(/constraint "([^"]+)"/, said, '')} rejects a change to ${tableIn(said)}; drop it on the target until after the drain`,
  ],
  [
    /23502|not-null constraint/i,
    'not-null',
    (said) =>
      `the target requires a value in the column ${named(/column "([^"]+)"/, said, '(unnamed)')} of ${tableIn(said)}, where the source has NULL; drop NOT NULL there`,
  ],
  [
    /23514|check constraint/i,
    'check',
    (said) =>
      `the target's CHECK ${named(/constraint "([^"]+)"/, said, '')} rejects a row of ${tableIn(said)} that the source has; drop that constraint on the target`,
  ],
  [
    /SQLSTATE 23\d{3}|violates/i,
    'check',
    (said) =>
      `a constraint on the target rejects a row of ${tableIn(said)}; drop it on the target until after the drain`,
  ],
  [
    /SQLSTATE 22\d{3}|invalid input (syntax|value)|out of range|too long for type|cannot (convert|encode|parse)|could not parse|unable to encode/i,
    'type',
    (said) =>
      `a value in ${tableIn(said)} does not fit the type of its column on the target; give both sides the same type. If the types are already the same, this replicator does not support the type: exclude the table, or use a different replicator`,
  ],
  [
    /SQLSTATE 42501|permission denied|does not have .* privilege/i,
    'permission',
    (said) => `the replicator's role lacks a privilege on ${tableIn(said)}; grant it`,
  ],
  [
    /SQLSTATE P0\d{3}/i,
    'trigger',
    (said) =>
      `a trigger on the target, perhaps a deferred one, rejects a change to ${tableIn(said)}; disable the triggers of the expected tables there until after the drain`,
  ],
  [
    /SQLSTATE (25P0[34]|57P05|57014)/i,
    'timeout',
    () =>
      "a server timeout ends the replicator's sessions; for its role, set statement_timeout, idle_session_timeout, idle_in_transaction_session_timeout and transaction_timeout to 0",
  ],
  [
    /SQLSTATE 53300/i,
    'connection-limit',
    () =>
      'a server has no free connection slot for the replicator; raise the connection limit of its role or database, or max_connections',
  ],
  [
    /SQLSTATE 25006|read-only transaction/i,
    'read-only',
    () => 'the target is read-only; make it writable for the migration user',
  ],
  [
    /40001|40P01|restart transaction|deadlock detected|TransactionRetry/i,
    'contention',
    () => 'other transactions on the target keep conflicting with the change (40001); stop all other writers',
  ],
  [
    /unknown tables?: |unknown destination|could not find table|no such table|SQLSTATE 42P01/i,
    'missing-table',
    (said) =>
      `the table ${named(/unknown tables?: (?:[^.,\s]+\.)?([^,\s]+)/, said, tableIn(said))} is missing on the target; create it, or remove it from the publication`,
  ],
  [
    /expecting a schema with 2 parts|unknown schema/i,
    'schema-name',
    () => "the target's database or schema does not exist; restore it",
  ],
  [
    /SQLSTATE (08\w{3}|57P\w\d|53\d{3}|28\w{3}|3D000)|connect|dial|refused|reset by peer|unexpected EOF|broken pipe|closed|terminating|i\/o timeout|no route/i,
    'connection',
    (said) => {
      const host = /(?:dial tcp |\()([\w.:[\]-]+:\d+)/.exec(said)?.[1]
      return `a database cannot be reached or rejects the replicator${host ? ` (${host})` : ''}; restore the connection`
    },
  ],
]

/**
 * Diagnoses an error message; undefined if there is none. `said` must not contain row values, because the diagnosis can
 * quote it.
 */
export function translate(said: string | undefined): Diagnosis | undefined {
  if (!said) return undefined
  const found = DIAGNOSES.find(([regex]) => regex.test(said))
  if (found) return { kind: found[1], why: found[2](said).replaceAll(/ {2,}/g, ' ') }
  return { kind: 'other', why: 'the replicator keeps retrying the same change' }
}

/** Cause and fix for the replicator's last error; undefined without an error. */
export function explainDiagnosis(said: string | undefined): string | undefined {
  return translate(said)?.why
}
