// A rule of the CockroachDB-like server: a fact about CockroachDB, and the handling of statements that it implies.
import type pg from 'pg'
import type { Past } from './past.ts'
import type { JobRegistry, Session, SqlError, Statement, Version } from './types.ts'

/** What the server does with one statement. */
export interface Plan {
  /** Sent to PostgreSQL instead. */
  sql: string
  /** Runs before the statement is executed. A {@link SqlError} is sent to the client. */
  before?: () => Promise<void>
  /**
   * Runs just before it is sent, and can replace `sql`. Alone in its transaction, the statement sees PostgreSQL's
   * snapshot of this id.
   */
  past?: (inTransaction: boolean) => Promise<{ sql: string; snapshot: string }>
  /** Command tag for the client, if it differs from PostgreSQL's. */
  tag?: string
  /** Whether it can fail with 40001, as if it lost to another transaction. */
  retryable?: boolean
  /** Commits a change on its own, so its result can be unknown (40003). */
  writes?: boolean
  /** A COMMIT of a transaction. */
  commits?: boolean
}

/** Marks a {@link Plan} of a schema change, a grant or the like. */
export const CHANGE = { retryable: true, writes: true } as const

/** Context for a rule. */
export interface RuleContext {
  session: Session & {
    searchPath: string
    /** Name → value of CockroachDB's own variables that the client has set. */
    variables: ReadonlyMap<string, string>
  }
  version: Version
  jobs: JobRegistry
  /** Milliseconds for a schema change. */
  ddlTime: number
  /** Queries the PostgreSQL behind, as a superuser in the session's database. */
  admin<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>
  /** A separate superuser connection in the session's database. The caller ends it. */
  connect(): Promise<pg.Client>
  /** Runs `work` with a superuser's connection in the session's database, and resets it afterwards. */
  lend<T>(work: (db: pg.ClientBase) => Promise<T>): Promise<T>
  /** Ends the client's open transaction, as CockroachDB does before a schema change. */
  commitOpen(): Promise<void>
  /** Whether the client is in a transaction, once everything it has sent is done. */
  inTransaction(): Promise<boolean>
  runImport(statement: Statement): Promise<string>
  /**
   * Makes `crdb_internal` show the statistics so far.
   * @param plans whether the statement reads `metadata`, which names statements that read whole tables
   */
  publishStatistics(plans: boolean): Promise<void>
  /** States of the session's database for AS OF SYSTEM TIME. */
  past: Past
  isAdmin(): Promise<boolean>
  hasPrivilege(schema: string, table: string, privilege: string): Promise<boolean>
  hasSystemPrivilege(privilege: string): Promise<boolean>
}

/** Documentation of a rule. */
export interface Fact {
  /** Dotted and stable: `refuse.lock-table`. */
  id: string
  /** What CockroachDB does, in one sentence. */
  says: string
  /** Source: a page of its documentation, a file of its source, or an issue. */
  source: string
  /** First version with it, and first version without it. Default: all. */
  since?: Version
  until?: Version
  /** True once it was seen on a real cluster. So far none was. */
  seen?: boolean
}

/** A rule for whole statements. The first match decides. */
export interface StatementRule extends Fact {
  plan(statement: Statement, context: RuleContext): Promise<Plan | undefined> | Plan | undefined
}

export function applies({ since, until }: Pick<Fact, 'since' | 'until'>, version: Version): boolean {
  return (!since || compare(version, since) >= 0) && (!until || compare(version, until) < 0)
}

function compare([major, minor]: Version, [otherMajor, otherMinor]: Version): number {
  return major - otherMajor || minor - otherMinor
}

/** The first words of a statement, folded: `create unique index`. Stops at quoted names and symbols. */
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

/** A statement that fails with this error when it is executed. */
export function raising(error: SqlError): string {
  return `SELECT ${raiseCall(error)}`
}

/** {@link raising} without a row description, which a COPY client does not expect. */
export function raisingForCopy(error: SqlError): string {
  return `DO ${quoteText(`BEGIN PERFORM ${raiseCall(error)}; END`)}`
}

function raiseCall({ code, message, detail = '', hint = '' }: SqlError): string {
  return `_crdb.raise(${[code, message, detail, hint].map(quoteText).join(', ')})`
}
