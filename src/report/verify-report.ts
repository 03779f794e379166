import type { ReportLevel } from '../model/plan.ts'
import type { Unknowns } from '../tools/events.ts'
import type { TableVerdict } from '../tools/molt-verify.ts'

/** A problem with one table, given by its name without the schema, or with the whole verify. */
export interface VerifyFinding {
  table?: string
  what: string
}

/** What was compared and found. The verify passes only if `problems` is empty. Contains no keys or values of rows. */
export interface VerifyReport {
  level: ReportLevel
  /** `streaming`: rows were changing, and differences were rechecked. `drained`: no difference is accepted. */
  while: 'streaming' | 'drained'
  /** How the rows were counted, apart from molt. */
  counted: 'exact' | 'estimated' | 'no'
  /** `unsettled`: no loss is known, but equality is not proved. */
  verdict: 'clean' | 'different' | 'unsettled'
  tables: TableVerdict[]
  problems: string[]
  /** The same problems, with the table of each. */
  findings: VerifyFinding[]
  /** Notes that are not problems but worth knowing. */
  notes: string[]
  /** What the user must create or decide, such as a trigger that the target lacks. */
  decisions: string[]
  /** Sentences about sides whose connection may lack TLS. */
  insecure: string[]
  /** Output of molt that was not recognised. */
  unknown?: Unknowns
  durationMs: number
}
