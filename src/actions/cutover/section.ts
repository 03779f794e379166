import type { Entry } from '../../ledger/ledger.ts'
import type { ReportLevel as Level } from '../../model/plan.ts'
import type { HeldFence } from '../../phases/cutover/held-fence.ts'
import type { Lanes } from '../../phases/cutover/lanes.ts'
import type { Estimate } from '../../phases/cutover/pause.ts'
import type { ProofSession } from '../../phases/rolling/session.ts'
import type { Stream, StreamStatus } from '../../phases/stream/supervisor.ts'
import type { Database } from '../../runtime/database.ts'

/** State that the parts of the write pause share. */
export interface Section {
  entry: Entry
  /** Output of `molt verify --help`. */
  help: string
  /** What is compared while writes are paused. */
  level: Level
  /** With `changed`: the proof of all other rows. */
  proof: ProofSession | undefined
  /** Aborted when the run is cancelled, or another run has taken the hold. */
  signal: AbortSignal
  stream: Stream
  source: Database
  target: Database
  before: StreamStatus
  held: HeldFence
  /** Connections for work that runs in parallel with the final verify. */
  lanes: Lanes
  estimate: Estimate
}
