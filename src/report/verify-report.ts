import type { ReportLevel } from '../model/plan.ts'
import type { Unknowns } from '../tools/events.ts'
import type { TableVerdict } from '../tools/molt-verify.ts'

/** A problem of one table, by its bare name, or of the whole verify. */
export interface VerifyFinding {
  table?: string
  what: string
}

/** What was compared and found. Green only when `problems` is empty. Contains no keys or values of rows. */
export interface VerifyReport {
  level: ReportLevel
  /** `streaming`: rows were changing, and differences were rechecked. `drained`: no difference is accepted. */
  while: 'streaming' | 'drained'
  /** How rows were counted in addition to molt. */
  counted: 'exact' | 'estimated' | 'no'
  /** `unsettled`: no known loss, but equality is not proved. */
  verdict: 'clean' | 'different' | 'unsettled'
  tables: TableVerdict[]
  problems: string[]
  /** The same problems, each with its table. */
  findings: VerifyFinding[]
  /** Not problems, but worth knowing. */
  notes: string[]
  /** What a person must create or decide, such as a trigger that the target lacks. */
  decisions: string[]
  /** Sides whose connection may lack TLS, as text. */
  insecure: string[]
  /** Unknown output of molt. */
  unknown?: Unknowns
  durationMs: number
}
