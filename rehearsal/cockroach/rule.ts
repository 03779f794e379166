// What a rule of the CockroachDB-like server is: a fact about CockroachDB, and what is done with a statement for it.
import type pg from 'pg'
import type { Past } from './past.ts'
import type { JobRegistry, Session, SqlError, Statement, Version } from './types.ts'

/** What the server does with one statement. */
export interface Plan {
  /** What PostgreSQL is sent instead. */
  sql: string
  /** Runs before it is executed; a {@link SqlError} is the client's answer. */
  before?: () => Promise<void>
  /**
   * Runs just before it is sent, and may replace `sql`. Alone in its transaction, the statement sees PostgreSQL's snapshot
   * of this id.
   */
  past?: (inTransaction: boolean) => Promise<{ sql: string; snapshot: string }>
  /** The command tag that the client gets, where PostgreSQL's is another one. */
  tag?: string
  /** Whether the server may lose it to another transaction (40001). */
  retryable?: boolean
  /** Changes something and commits it by itself, so that its result can be unknown (40003). */
  writes?: boolean
  /** A COMMIT of a transaction. */
  commits?: boolean
}

/** Of a {@link Plan} for a schema change, a grant or the like. */
export const CHANGE = { retryable: true, writes: true } as const

/** What a rule may ask. */
export interface RuleContext {
  session: Session & {
    searchPath: string
    /** What the client has set of CockroachDB's own variables, by name. */
    variables: ReadonlyMap<string, string>
  }
  version: Version
  jobs: JobRegistry
  /** Milliseconds that a schema change takes. */
  ddlTime: number
  /** Asks the PostgreSQL behind, as a superuser in the session's database. */
  admin<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>
  /** A superuser's connection of its own, in the session's database. The caller ends it. */
  connect(): Promise<pg.Client>
  /** Runs `work` with a superuser's connection in the session's database, and takes it back as new. */
  lend<T>(work: (db: pg.ClientBase) => Promise<T>): Promise<T>
  /** Ends the client's open transaction, as CockroachDB does before a schema change. */
  commitOpen(): Promise<void>
  /** Whether the client has begun one, once all that it has sent was done. */
  inTransaction(): Promise<boolean>
  runImport(statement: Statement): Promise<string>
  /**
   * Makes `crdb_internal` show what was counted until now.
   * @param plans whether the statement reads `metadata`, which names statements that read whole tables
   */
  publishStatistics(plans: boolean): Promise<void>
  /** States of the session's database that AS OF SYSTEM TIME reads. */
  past: Past
  isAdmin(): Promise<boolean>
  hasPrivilege(schema: string, table: string, privilege: string): Promise<boolean>
  hasSystemPrivilege(privilege: string): Promise<boolean>
}

/** What is documented of a rule. */
export interface Fact {
  /** Dotted and stable: `refuse.lock-table`. */
  id: string
  /** What CockroachDB does, in one sentence. */
  says: string
  /** Where that is stated: a page of its documentation, a file of its source, or an issue. */
  source: string
  /** First version with it, and the first without it. Default: all. */
  since?: Version
  until?: Version
  /** True once it was seen on a real cluster. None has been so far. */
  seen?: boolean
}

/** A rule for whole statements. The first that answers decides. */
export interface StatementRule extends Fact {
  plan(statement: Statement, context: RuleContext): Promise<Plan | undefined> | Plan | undefined
}

export function applies({ since, until }: Pick<Fact, 'since' | 'until'>, version: Version): boolean {
  return (!since || compare(version, since) >= 0) && (!until || compare(version, until) < 0)
}

function compare([major, minor]: Version, [otherMajor, otherMinor]: Version): number {
  return major - otherMajor || minor - otherMinor
}

/** The first words of a statement, folded: `create unique index`. Quoted names and symbols end them. */
export function opening({ tokens }: Statement, count: number): string {
  const words: string[] = []
  for (const token of tokens.slice(0, count)) {
    if (token.kind !== 'word') break
    words.push(token.value)
  }
  return words.join(' ')
}

/** Whether a statement opens with these words. */
export function opensWith(statement: Statement, words: string): boolean {
  return opening(statement, words.split(' ').length) === words
}

export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteText(value: string): string {
  return `'${value.replaceAll("'", "''")}'`
}

/** A statement that gives the client this error when it is executed. */
export function raising(error: SqlError): string {
  return `SELECT ${raiseCall(error)}`
}

/** {@link raising} without a row description, which a client of COPY does not expect. */
export function raisingForCopy(error: SqlError): string {
  return `DO ${quoteText(`BEGIN PERFORM ${raiseCall(error)}; END`)}`
}

function raiseCall({ code, message, detail = '', hint = '' }: SqlError): string {
  return `_crdb.raise(${[code, message, detail, hint].map(quoteText).join(', ')})`
}
