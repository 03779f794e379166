import type { Deferral } from '../../destination/deferral.ts'
import type { Phase } from '../../ledger/ledger.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'
import type { SourceFacts } from './source.ts'
import type { TargetFacts } from './target.ts'

/** Everything a check can read, gathered once before the checks run. */
export interface Facts {
  source: SourceFacts
  target: TargetFacts
  settings: Settings
  machine: Machine
}

/** The inputs and the ledger state that checks depend on. */
export interface Settings {
  migration: string
  /** The phase in this migration's ledger entry; undefined if there is no entry yet. */
  phase: Phase | undefined
  schema: string
  targetSchema: string
  /** The expected tables. */
  tables: readonly string[]
  /** The value of the input `tables`; undefined when it is not set. */
  asked: readonly string[] | undefined
  filter: string
  slot: string
  publication: string
  /** Whether this run's cutover is a rehearsal, without a commit. */
  rehearses: boolean
  writeAccess: 'close' | 'waive'
  defer: Deferral
  /** With `forms`, `prepare` tries each form of deferred definition on empty tables before it drops anything. */
  trial: 'forms' | 'none'
  /** With `none`, the load refuses a table that has rows. */
  tableHandling: string
  bucketPath: string | undefined
  /** How the load moves rows; undefined when `prepare` does not know. */
  mode: FetchMode | undefined
  /** Why IMPORT INTO needs EXTERNALIOIMPLICITACCESS to read the load's files; undefined when it does not. */
  implicitAccess: string | undefined
  tableConcurrency: number
  exportConcurrency: number
  rowBatchSize: number
  /** Assumed speed of the load in bytes per second. */
  loadRate: number
  /** Time limit of the job in milliseconds. */
  jobLimit: number
  /** Lifetime of the cloud credentials in milliseconds, if known. */
  sessionLimit: number | undefined
  /** Age in milliseconds above which an open transaction is reported. */
  longTransaction: number
}

/** Facts about this machine and the URLs, without secrets. */
export interface Machine {
  memoryBytes: number
  now: Date
  urls: Record<'source' | 'target', UrlFacts>
  tools: Record<'molt' | 'replicator', Tool | null>
}

export interface Tool {
  version: string
  sha256: string
  /** Whether this replicator stops on a TOASTed value that an UPDATE leaves unchanged, as 1.0 releases do. */
  stopsOnToast?: boolean
}

export interface UrlFacts {
  /** `sslmode` as written; empty when the URL has none. */
  sslmode: string
  /** Whether the host is this machine. */
  local: boolean
  /** Whether every program decodes the password the same way. */
  passwordSurvives: boolean
}
