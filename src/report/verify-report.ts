import type { ReportLevel } from '../model/plan.ts'
import type { Unknowns } from '../tools/events.ts'
import type { TableVerdict } from '../tools/molt-verify.ts'

/** A problem of one table, by its bare name, or of the whole verify. */
export interface VerifyFinding {
  table?: string
  what: string
}

/** What was compared and found; green only when `problems` is empty. Holds no key and no value of any row. */
export interface VerifyReport {
  level: ReportLevel
  /** `streaming`: rows were changing, and differences were checked again. `drained`: no difference is accepted. */
  while: 'streaming' | 'drained'
  /** How rows were counted apart from molt. */
  counted: 'exact' | 'estimated' | 'no'
  /** `unsettled`: no known loss, but equality is not proved. */
  verdict: 'clean' | 'different' | 'unsettled'
  tables: TableVerdict[]
  problems: string[]
  /** The same problems, each with its table. */
  findings: VerifyFinding[]
  /** Not problems, but worth knowing. */
  notes: string[]
  /** What a person has to create or to decide, such as a trigger that the target lacks. */
  decisions: string[]
  /** Sides whose connection may lack TLS, in words. */
  insecure: string[]
  /** Lines of molt's output that this version does not know. */
  unknown?: Unknowns
  durationMs: number
}
