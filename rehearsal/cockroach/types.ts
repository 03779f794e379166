// Types shared by the parts of the CockroachDB-like server: tokens, errors, sessions, jobs, and IMPORT INTO's engine.
import type pg from 'pg'

/** The CockroachDB version to imitate, as `[major, minor]`: `[25, 2]`. */
export type Version = readonly [major: number, minor: number]

export type TokenKind =
  /** Bare word, lower-cased in `value`. */
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

/** One token of a statement. Comments and white space produce none. */
export interface Token {
  kind: TokenKind
  /** Text as written. */
  text: string
  /** Lower-cased, unquoted or decoded text. */
  value: string
  /** Offsets in the statement's text, `end` exclusive. */
  start: number
  end: number
}

export interface Statement {
  /** The statement's text without its semicolon. */
  sql: string
  tokens: readonly Token[]
}

/** An error to send to the client, in CockroachDB's wording. */
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

/** The session of one client connection. */
export interface Session {
  readonly user: string
  readonly database: string
  /** Aborts when the client cancels its statement or disconnects. A cancelled statement ends with 57014. */
  readonly signal: AbortSignal
}

/** Values of `crdb_internal.jobs.status`. */
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
  /** An increasing int8 of 18 or 19 digits, like CockroachDB's. */
  readonly id: string
  readonly type: 'IMPORT' | 'SCHEMA CHANGE' | 'NEW SCHEMA CHANGE' | 'CHANGEFEED' | 'CREATE STATS' | 'AUTO CREATE STATS'
  /** The full text. SHOW JOBS truncates it to 100 characters, SHOW JOB does not. */
  readonly description: string
  readonly user: string
  readonly created: Date
  status: JobStatus
  /** Progress from 0 to 1. */
  fractionCompleted: number
  finished?: Date
  /** The `error` that `SHOW JOB` returns. For an import it contains row values, as in CockroachDB. */
  error?: string
}

export interface NewJob extends Pick<Job, 'type' | 'description' | 'user'> {
  /** Called once by CANCEL JOB, before the status becomes `cancel-requested`. */
  onCancel?: () => void
}

export interface JobRegistry {
  /** Creates a job with status `running` and no progress. */
  create(job: NewJob): Job
  /** Changes status, progress or error. The change is then visible to SHOW JOBS in every session. */
  update(job: Job, change: Partial<Pick<Job, 'status' | 'fractionCompleted' | 'error'>>): void
  get(id: string): Job | undefined
  list(): Job[]
  /**
   * Cancels a job: sets `cancel-requested`, then calls `onCancel`. The job's runner reverts it and sets `canceled`.
   * @throws SqlError if the job does not exist or has ended
   */
  cancel(id: string): void
}

/** What the import engine needs from the server. */
export interface ImportContext {
  session: Session
  jobs: JobRegistry
  version: Version
  /** Opens a superuser connection to the session's database on the PostgreSQL server. The caller closes it. */
  connect(): Promise<pg.Client>
  /**
   * Whether the session's user has this privilege (`DROP`, `INSERT` or `SELECT`), owns the table, or is a member of
   * admin.
   */
  hasPrivilege(schema: string, table: string, privilege: string): Promise<boolean>
  /** Whether the user has `EXTERNALIOIMPLICITACCESS`, `VIEWJOB`, …. Members of admin have all privileges. */
  hasSystemPrivilege(privilege: string): Promise<boolean>
  /** Hides the table from the catalogs, and makes statements on it fail with 55000. */
  takeOffline(schema: string, table: string, job: Job): Promise<void>
  bringOnline(schema: string, table: string): Promise<void>
}

/** The row that IMPORT INTO returns. */
export interface ImportResult {
  jobId: string
  status: JobStatus
  fractionCompleted: number
  rows: number
  indexEntries: number
  bytes: number
}

/**
 * Runs `IMPORT INTO …`: parses the statement, checks privileges, creates the job, takes the table offline, loads the
 * rows, leaves foreign keys and checks unvalidated, and brings the table online.
 * @returns when the job has ended, or with `WITH DETACHED` right after its creation
 * @throws SqlError to send to the client
 */
export type ImportEngine = (statement: Statement, context: ImportContext) => Promise<ImportResult>
