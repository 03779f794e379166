import * as z from 'zod'

/** Timeouts and polling intervals that no input sets, in milliseconds. */
const DEFAULTS = {
  /** Timeout of a connection attempt. */
  connectTimeout: 15_000,
  /** Timeout of `password-command`, and how long its password is reused for new connections. */
  passwordCommand: 30_000,
  passwordKept: 60_000,
  /** The server's timeout for a catalog statement. */
  statementTimeout: 60_000,
  /** Added to the server's timeout for the driver's own. */
  statementGrace: 1_000,
  /** Timeout of a statement on the fence. Only a broken connection takes longer. */
  fenceTimeout: 3_000,
  /** How long a failed cutover waits for the work that runs during its verify. */
  besideEnds: 30_000,
  /** Lock timeout for creating the fence's trigger on a table, per attempt. */
  fenceLock: 1_000,
  /** Delay before a retry on the target: the first, doubled each time, and the maximum. */
  repeatFirst: 20,
  repeatMost: 1_500,
  /** Timeout of a request to GitHub. */
  githubTimeout: 20_000,
  /** Unit of the back-off when a request to GitHub fails. */
  githubBackoff: 1_000,
  /** Timeout of a message to `notify-url`. */
  notifyTimeout: 5_000,
  /** How long to measure the WAL rate of the source. */
  walWindow: 2_000,
  /** Time limit for sampling rows of all tables. */
  sampleLimit: 10_000,
  /** Time limit for finding the column that a tool could not load. Without it, the failure is reported anyway. */
  columnLook: 60_000,
  /** Interval between counts of the loaded rows. */
  loadSample: 1_000,
  /** How long the hold of a load lasts without renewal. */
  loadHold: 20_000,
  /** Extra time after a hold has lapsed: for its run to stop the load, and for another run to take over. */
  holdGrace: 5_000,
  /** Interval between checks for an abort. */
  abortLook: 2_000,
  /** While imports of a dead runner end: intervals between checks and log lines; then between `abort`'s checks of a load. */
  importLook: 1_000,
  importNotice: 30_000,
  loadEndLook: 500,
  /** From SIGTERM to SIGKILL for a tool, the same at the end of a run, and the interval between checks. */
  toolGrace: 5_000,
  toolStop: 1_000,
  toolLook: 20,
  /** How long to wait for output from child processes of an ended tool. */
  pipeGrace: 1_000,
  /** Timeout of a request for the replicator's metrics. */
  metricsTimeout: 2_000,
  /** Stall of a tool: time before the first warning, longest time between warnings, and interval between checks. */
  stallFirst: 5 * 60_000,
  stallLongest: 60 * 60_000,
  stallLook: 1_000,
  /** Intervals of the stream: heartbeats, reads of the target's marker, slot measurements, and database checks. */
  heartbeat: 250,
  lagLook: 50,
  slotLook: 500,
  watchLook: 1_000,
  /** Interval between the replicator's acknowledgements. Its default of 5 s would dominate the write pause. */
  standby: 200,
  /** Longest time that the replicator batches changes before it writes them. */
  flush: 100,
  /** Delay after a lost connection; delay per unsuccessful restart of the replicator, and its maximum. */
  reconnect: 250,
  restart: 200,
  restartMost: 1_000,
  /** Retries farther apart than this count as unrelated. */
  retryGap: 5_000,
  /** Intervals between checks of the lag, of requests for the slot, and of the slot's reader. */
  caughtUpLook: 100,
  handoverLook: 100,
  readerLook: 100,
  /** How long the server may take to notice that the slot's reader is gone. */
  readerGone: 1_500,
  /** The drain: interval between checks, and how long counters must stay unchanged. */
  drainLook: 10,
  drainStill: 60,
  /** Last check of the stream before the fence: its quiet period, extra time for the marker beyond `max-lag`, interval. */
  movingFor: 100,
  markerGrace: 2_000,
  markerLook: 20,
  /** Longest wait for the source's current changes to reach the target, before a verify during streaming. */
  arrival: 5_000,
  /** Delay between rounds of the recheck. */
  recheckPause: 500,
  /** Interval between checks for remaining writers under the fence. */
  holdersLook: 10,
  /** How long a hold lasts without renewal, long enough for a short outage of the target; interval between requests. */
  hold: 60_000,
  holdAsk: 1_000,
  /** Interval between checks of whether the owner renews a hold. */
  holderLook: 1_000,
  /** How long sessions of a revoked login may take to end, and the interval between checks. */
  sessionsEnd: 5_000,
  sessionsLook: 10,
  /** How long a unique index may take to build and schema changes to end, with the intervals between checks. */
  indexBuild: 600_000,
  indexLook: 250,
  jobsEnd: 60_000,
  jobsLook: 500,
  /** The rolling proof: delay between rounds, longest waits for a round's marker and log, interval between saves. */
  proofRound: 200,
  proofMarker: 10_000,
  proofLog: 30_000,
  proofLogLook: 5,
  proofSave: 5_000,
  /** Interval between checks of the rolling proof, and longest wait until little enough is left for a short pause. */
  proofLook: 50,
  proofNear: 120_000,
  /** Delay before the rolling proof starts a new session after a failed one. */
  proofAgain: 1_000,
  /** Interval between keepalives of the change log's reader. The server drops a reader that is idle for 60 s. */
  changeLogAnswer: 2_000,
  /** Interval between samples after the switch. Clients that connect for a shorter time can be missed. */
  observeSample: 5_000,
  /** Exceeds the largest clock offset between two nodes. A read as of a future time fails. */
  clockOffset: 600,
  /** Interval between samples of lag and WAL for the dossier. */
  streamSample: 500,
  /** Time limit for writing a failure to the ledger. Short, because the job is ending. */
  failureKept: 5_000,
  /** How long a COPY may take to end before its connection is closed. */
  hangUp: 500,
  /** Lock timeout for discarding a masked copy. Short, because a cancelled run has only seconds. */
  discardLock: 3_000,
}

export type Timing = typeof DEFAULTS

/**
 * Shorter values for tests, from `MOLT_ACTIONS_TEST_TIMING`, JSON such as `{"walWindow":50}`. Ignored on a GitHub runner,
 * where `RUNNER_NAME` is set.
 * @throws ZodError for an unknown name
 */
function shortened({ MOLT_ACTIONS_TEST_TIMING: given, RUNNER_NAME: runner = 'local' }: NodeJS.ProcessEnv) {
  if (!given || runner !== 'local') return {}
  return z.partialRecord(z.enum(Object.keys(DEFAULTS)), z.number().min(0)).parse(JSON.parse(given))
}

export const TIMING: Readonly<Timing> = { ...DEFAULTS, ...shortened(process.env) }
