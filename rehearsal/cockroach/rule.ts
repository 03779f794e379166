// A rule of the CockroachDB-like server: a fact about CockroachDB, and how to handle statements accordingly.
import type pg from 'pg'
import type { Past } from './past.ts'
import type { JobRegistry, Session, SqlError, Statement, Version } from './types.ts'

/** How the server handles one statement. */
export interface Plan {
  /** SQL to send to PostgreSQL instead. */
  sql: string
  /** Runs before the statement. A {@link SqlError} goes to the client. */
  before?: () => Promise<void>
  /**
   * Runs right before the statement is sent, and can replace `sql`. Outside a transaction, the statement then reads the
   * PostgreSQL snapshot with the returned id.
   */
  past?: (inTransaction: boolean) => Promise<{ sql: string; snapshot: string }>
  /** Command tag to send to the client, if PostgreSQL's differs. */
  tag?: string
  /** Whether the statement can fail with 40001, as if it had lost to another transaction. */
  retryable?: boolean
  /** Whether the statement commits a change, so that its result can be ambiguous (40003). */
  writes?: boolean
  /** Whether the statement is the COMMIT of a transaction. */
  commits?: boolean
}

/** Fields of a {@link Plan} for a statement that changes the schema or privileges. */
export const CHANGE = { retryable: true, writes: true } as const

/** Context for a rule. */
export interface RuleContext {
  session: Session & {
    searchPath: string
    /** Name → value of the CockroachDB variables that the client has set. */
    variables: ReadonlyMap<string, string>
  }
  version: Version
  jobs: JobRegistry
  /** Duration of a schema change, in milliseconds. */
  ddlTime: number
  /** Queries the PostgreSQL server behind this one, as a superuser in the session's database. */
  admin<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>
  /** Opens a superuser connection to the session's database. The caller closes it. */
  connect(): Promise<pg.Client>
  /** Runs `work` on a superuser connection to the session's database, and resets the connection afterwards. */
  lend<T>(work: (db: pg.ClientBase) => Promise<T>): Promise<T>
  /** Commits the client's open transaction, as CockroachDB does before a schema change. */
  commitOpen(): Promise<void>
  /** Whether the client is in a transaction, once everything it has sent is done. */
  inTransaction(): Promise<boolean>
  runImport(statement: Statement): Promise<string>
  /**
   * Publishes the statistics so far to `crdb_internal`.
   * @param plans whether to update full scans too, for a statement that reads `metadata`
   */
  publishStatistics(plans: boolean): Promise<void>
  /** Past states of the session's database, for AS OF SYSTEM TIME. */
  past: Past
  isAdmin(): Promise<boolean>
  hasPrivilege(schema: string, table: string, privilege: string): Promise<boolean>
  hasSystemPrivilege(privilege: string): Promise<boolean>
}

/** A fact about CockroachDB, for the documentation. */
export interface Fact {
  /** Dotted and stable: `refuse.lock-table`. */
  id: string
  /** What CockroachDB does, in one sentence. */
  says: string
  /** Source: a page of CockroachDB's documentation, a file of its source, or an issue. */
  source: string
  /** Versions that the fact applies to, from `since` to before `until`. Default: all versions. */
  since?: Version
  until?: Version
  /** True once confirmed on a real cluster. */
  seen?: boolean
}

/** A rule for whole statements. The first rule that matches decides. */
export interface StatementRule extends Fact {
  plan(statement: Statement, context: RuleContext): Promise<Plan | undefined> | Plan | undefined
}

export function applies({ since, until }: Pick<Fact, 'since' | 'until'>, version: Version): boolean {
  return (!since || compare(version, since) >= 0) && (!until || compare(version, until) < 0)
}

function compare([major, minor]: Version, [otherMajor, otherMinor]: Version): number {
  return major - otherMajor || minor - otherMinor
}

/** A statement's first words, lower-cased: `create unique index`. Stops at quoted names and symbols. */
export function opening({ tokens }: Statement, count: number): string {
  const words: string[] = []
  for (const token of tokens.slice(0, count)) {
    if (token.kind !== 'word') break
    words.push(token.value)
  }
  return words.join(' ')
}

/** Whether a statement starts with these words. */
export function opensWith(statement: Statement, words: string): boolean {
  return opening(statement, words.split(' ').length) === words
}

export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteText(value: string): string {
  return `'${value.replaceAll("'", "''")}'`
}

/** A statement that fails with this error when executed. */
export function raising(error: SqlError): string {
  return `SELECT ${raiseCall(error)}`
}

/** {@link raising} for COPY, whose client expects no row description. */
export function raisingForCopy(error: SqlError): string {
  return `DO ${quoteText(`BEGIN PERFORM ${raiseCall(error)}; END`)}`
}

function raiseCall({ code, message, detail = '', hint = '' }: SqlError): string {
  return `_crdb.raise(${[code, message, detail, hint].map(quoteText).join(', ')})`
}
