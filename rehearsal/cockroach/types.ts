// Shared by the parts of the CockroachDB-like server: tokens, errors, sessions, jobs, and the engine of IMPORT INTO.
import type pg from 'pg'

/** The CockroachDB version to imitate, as `[major, minor]`: `[25, 2]`. */
export type Version = readonly [major: number, minor: number]

export type TokenKind =
  /** Bare word, folded to lower case in `value`. */
  | 'word'
  /** `"Quoted name"`, unquoted in `value`. */
  | 'quoted'
  /** `'…'`, `e'…'`, `b'…'`, `$$…$$`, decoded in `value`. */
  | 'string'
  | 'number'
  /** `$1` */
  | 'param'
  /** Operators and punctuation: `::`, `(`, `@`, `->>`. */
  | 'symbol'

/** One token of a statement. Comments and white space have no tokens. */
export interface Token {
  kind: TokenKind
  /** As written. */
  text: string
  /** Folded, unquoted or decoded. */
  value: string
  /** Offsets in the statement's text, `end` exclusive. */
  start: number
  end: number
}

export interface Statement {
  /** Without its semicolon. */
  sql: string
  tokens: readonly Token[]
}

/** An error for the client, in the server's wording. */
export class SqlError extends Error {
  override name = 'SqlError'
  /** SQLSTATE. */
  readonly code: string
  readonly detail: string | undefined
  readonly hint: string | undefined

  constructor(code: string, message: string, more: { detail?: string; hint?: string } = {}) {
    super(message)
    this.code = code
    this.detail = more.detail
    this.hint = more.hint
  }
}

/** Of one client connection. */
export interface Session {
  readonly user: string
  readonly database: string
  /** Aborts when the client cancels its statement or disconnects. A cancelled statement ends with 57014. */
  readonly signal: AbortSignal
}

/** `crdb_internal.jobs.status`. */
export type JobStatus =
  | 'pending'
  | 'running'
  | 'paused'
  | 'pause-requested'
  | 'cancel-requested'
  | 'reverting'
  | 'canceled'
  | 'failed'
  | 'succeeded'

export interface Job {
  /** An int8 like CockroachDB's: 18 or 19 digits, always growing. */
  readonly id: string
  readonly type: 'IMPORT' | 'SCHEMA CHANGE' | 'NEW SCHEMA CHANGE' | 'CHANGEFEED' | 'CREATE STATS' | 'AUTO CREATE STATS'
  /** In full; SHOW JOBS cuts it to 100 characters, SHOW JOB does not. */
  readonly description: string
  readonly user: string
  readonly created: Date
  status: JobStatus
  /** 0 to 1. */
  fractionCompleted: number
  finished?: Date
  /** The `error` of `SHOW JOB`; for an import it contains row values, as in CockroachDB. */
  error?: string
}

export interface NewJob extends Pick<Job, 'type' | 'description' | 'user'> {
  /** Called once at CANCEL JOB, before the status becomes `cancel-requested`. */
  onCancel?: () => void
}

export interface JobRegistry {
  /** Starts as `running` with 0 completed. */
  create(job: NewJob): Job
  /** Changes status, progress or error; SHOW JOBS of every session shows it from now on. */
  update(job: Job, change: Partial<Pick<Job, 'status' | 'fractionCompleted' | 'error'>>): void
  get(id: string): Job | undefined
  list(): Job[]
  /**
   * CANCEL JOB: `cancel-requested`, then `onCancel`. The job's runner reverts it and sets `canceled`.
   * @throws SqlError for a job that does not exist or has ended
   */
  cancel(id: string): void
}

/** Services of the server for the engine of IMPORT INTO. */
export interface ImportContext {
  session: Session
  jobs: JobRegistry
  version: Version
  /** A superuser's connection to the PostgreSQL behind, in the session's database. The caller ends it. */
  connect(): Promise<pg.Client>
  /** Whether the session's user has the privilege, is the owner or a member of admin: `DROP`, `INSERT`, `SELECT`. */
  hasPrivilege(schema: string, table: string, privilege: string): Promise<boolean>
  /** `EXTERNALIOIMPLICITACCESS`, `VIEWJOB`, …; a member of admin has all. */
  hasSystemPrivilege(privilege: string): Promise<boolean>
  /** Makes catalogs hide the table, and statements on it fail with 55000 `relation "x" is offline: importing`. */
  takeOffline(schema: string, table: string, job: Job): Promise<void>
  bringOnline(schema: string, table: string): Promise<void>
}

/** The result row of IMPORT INTO. */
export interface ImportResult {
  jobId: string
  status: JobStatus
  fractionCompleted: number
  rows: number
  indexEntries: number
  bytes: number
}

/**
 * Runs `IMPORT INTO …`: parses the statement, checks rights, creates the job, takes the table offline, loads the
 * rows, leaves foreign keys and checks unvalidated, brings the table online.
 * @returns when the job has ended, or with `WITH DETACHED` right after its creation
 * @throws SqlError for the client
 */
export type ImportEngine = (statement: Statement, context: ImportContext) => Promise<ImportResult>
