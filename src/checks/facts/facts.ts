import type { Deferral } from '../../destination/deferral.ts'
import type { Phase } from '../../ledger/ledger.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'
import type { SourceFacts } from './source.ts'
import type { TargetFacts } from './target.ts'

/** All that a check may look at. Checks are pure: what they need is gathered before, once. */
export interface Facts {
  source: SourceFacts
  target: TargetFacts
  settings: Settings
  machine: Machine
}

/** The inputs, and what the ledger says, as far as checks depend on them. */
export interface Settings {
  migration: string
  /** Of this migration's ledger entry; undefined when there is none yet. */
  phase: Phase | undefined
  schema: string
  targetSchema: string
  /** The expected tables. */
  tables: readonly string[]
  /** What was written into the input `tables`; undefined when nothing was. */
  asked: readonly string[] | undefined
  filter: string
  slot: string
  publication: string
  rehearsalTarget: boolean
  writeAccess: 'close' | 'waive'
  defer: Deferral
  /** Whether what is deferred is first built on empty copies. */
  trial: 'forms' | 'none'
  /** `none` means that the load refuses rows that are there already. */
  tableHandling: string
  bucketPath: string | undefined
  /** How the load moves rows; undefined where `prepare` is not told. */
  mode: FetchMode | undefined
  /** What of the load's files makes IMPORT INTO ask for EXTERNALIOIMPLICITACCESS; undefined when nothing does. */
  implicitAccess: string | undefined
  tableConcurrency: number
  exportConcurrency: number
  rowBatchSize: number
  /** Bytes per second that a load is taken to move. */
  loadRate: number
  /** Milliseconds. */
  jobLimit: number
  sessionLimit: number | undefined
  longTransaction: number
}

/** What is known of the machine and of the URLs, without their contents. */
export interface Machine {
  memoryBytes: number
  now: Date
  urls: Record<'source' | 'target', UrlFacts>
  tools: Record<'molt' | 'replicator', Tool | null>
}

export interface Tool {
  version: string
  sha256: string
  /** Of a replicator: whether it ends on a TOASTed value that an UPDATE left alone, as releases 1.0 do. */
  stopsOnToast?: boolean
}

export interface UrlFacts {
  /** `sslmode` as written; empty when it is not. */
  sslmode: string
  /** The host is this machine. */
  local: boolean
  /** The password means the same to every program that decodes it. */
  passwordSurvives: boolean
}
