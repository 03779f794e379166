import type { Deferral } from '../../destination/deferral.ts'
import type { Phase } from '../../ledger/ledger.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'
import type { SourceFacts } from './source.ts'
import type { TargetFacts } from './target.ts'

/** Everything a check can read. Checks are pure, so it is all gathered once, before they run. */
export interface Facts {
  source: SourceFacts
  target: TargetFacts
  settings: Settings
  machine: Machine
}

/** The inputs and the ledger's state that checks depend on. */
export interface Settings {
  migration: string
  /** Of this migration's ledger entry; undefined when there is none yet. */
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
  /** Whether deferred definitions are first built on empty copies. */
  trial: 'forms' | 'none'
  /** `none` means that the load refuses a table with rows. */
  tableHandling: string
  bucketPath: string | undefined
  /** How the load moves rows; undefined when `prepare` does not know. */
  mode: FetchMode | undefined
  /** Why IMPORT INTO needs EXTERNALIOIMPLICITACCESS for these files; undefined when it does not. */
  implicitAccess: string | undefined
  tableConcurrency: number
  exportConcurrency: number
  rowBatchSize: number
  /** Bytes per second that a load is assumed to move. */
  loadRate: number
  /** Milliseconds. */
  jobLimit: number
  sessionLimit: number | undefined
  longTransaction: number
}

/** What is known of the machine and the URLs, without the URLs' contents. */
export interface Machine {
  memoryBytes: number
  now: Date
  urls: Record<'source' | 'target', UrlFacts>
  tools: Record<'molt' | 'replicator', Tool | null>
}

export interface Tool {
  version: string
  sha256: string
  /** Whether this replicator stops on a TOASTed value that an UPDATE left alone, as releases 1.0 do. */
  stopsOnToast?: boolean
}

export interface UrlFacts {
  /** `sslmode` as written; empty when the URL has none. */
  sslmode: string
  /** The host is this machine. */
  local: boolean
  /** Every program decodes the password the same way. */
  passwordSurvives: boolean
}
