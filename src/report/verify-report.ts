import type { ReportLevel } from '../model/plan.ts'
import type { Unknowns } from '../tools/events.ts'
import type { TableVerdict } from '../tools/molt-verify.ts'

/** A problem of one table, by its bare name, or of the verify as a whole. */
export interface VerifyFinding {
  table?: string
  what: string
}

/** What was compared and found; green only when `problems` is empty. No key and no value of a row is in it. */
export interface VerifyReport {
  level: ReportLevel
  /** `streaming`: rows were moving, and differences were looked at again. `drained`: none is accepted. */
  while: 'streaming' | 'drained'
  /** How rows were counted beside molt. */
  counted: 'exact' | 'estimated' | 'no'
  /** `unsettled`: no known loss, but equality is not proved. */
  verdict: 'clean' | 'different' | 'unsettled'
  tables: TableVerdict[]
  problems: string[]
  /** The same problems, with the table that each is about. */
  findings: VerifyFinding[]
  /** What is no problem here, and should be known. */
  notes: string[]
  /** What a person has to create or to decide, such as a trigger that the target lacks. */
  decisions: string[]
  /** Sides that may be reached without TLS, in words. */
  insecure: string[]
  /** What on molt's output nothing is known of. */
  unknown?: Unknowns
  durationMs: number
}
