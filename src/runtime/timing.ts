import * as z from 'zod'

/** Timeouts and polling intervals that are not inputs, in milliseconds. */
const DEFAULTS = {
  /** Timeout of a connection attempt. */
  connectTimeout: 15_000,
  /** Timeout of `password-command`, and how long new connections reuse its password. */
  passwordCommand: 30_000,
  passwordKept: 60_000,
  /** The server's timeout for a catalog statement. */
  statementTimeout: 60_000,
  /** Added to the server's timeout to get the timeout in the driver. */
  statementGrace: 1_000,
  /** Timeout of a statement on the fence. Only a broken connection can take this long. */
  fenceTimeout: 3_000,
  /**
   * How long a failed cutover waits for work that it started in parallel with the verification, such as index builds.
   */
  besideEnds: 30_000,
  /** Lock timeout of each attempt to create the fence's trigger on a table. */
  fenceLock: 1_000,
  /** Delay before the first retry on the target, which doubles with each retry, and the maximum delay. */
  repeatFirst: 20,
  repeatMost: 1_500,
  /** Timeout of a request to GitHub. */
  githubTimeout: 20_000,
  /** Unit of the back-off when a request to GitHub fails. */
  githubBackoff: 1_000,
  /** Timeout of a message to `notify-url`. */
  notifyTimeout: 5_000,
  /** How long the WAL rate of the source is measured. */
  walWindow: 2_000,
  /** Time limit for sampling rows from all tables. */
  sampleLimit: 10_000,
  /**
   * Time limit for finding the column that a tool could not load. Otherwise, the failure is reported without the
   * column.
   */
  columnLook: 60_000,
  /** Interval between counts of the loaded rows. */
  loadSample: 1_000,
  /** How long a load's hold lasts without renewal. */
  loadHold: 20_000,
  /**
   * How much longer to wait after a load's hold has expired, until its run stops the load or another run takes over.
   */
  holdGrace: 5_000,
  /** Interval between checks for an abort. */
  abortLook: 2_000,
  /**
   * Waiting for imports that a dead runner has left: intervals between checks and between log lines. Then the interval
   * at which `abort` checks whether a load has stopped.
   */
  importLook: 1_000,
  importNotice: 30_000,
  loadEndLook: 500,
  /**
   * Stopping a tool: time from SIGTERM to SIGKILL, a shorter time if the run is cancelled, and interval between checks.
   */
  toolGrace: 5_000,
  toolStop: 1_000,
  toolLook: 20,
  /** How long to wait for output from a tool's child processes after the tool has exited. */
  pipeGrace: 1_000,
  /** Timeout of a request for the replicator's metrics. */
  metricsTimeout: 2_000,
  /** Stall of a tool: time until the first warning, longest time between warnings, and interval between checks. */
  stallFirst: 5 * 60_000,
  stallLongest: 60 * 60_000,
  stallLook: 1_000,
  /**
   * Intervals while streaming: between heartbeats, reads of the marker on the target, slot measurements, and checks of
   * the databases.
   */
  heartbeat: 250,
  lagLook: 50,
  slotLook: 500,
  watchLook: 1_000,
  /** Interval between the replicator's acknowledgements. Its default of 5 s would dominate the write pause. */
  standby: 200,
  /** Longest time for which the replicator collects changes before it writes them. */
  flush: 100,
  /** Delay after a lost connection. Delay added by each unsuccessful restart of the replicator, and the maximum. */
  reconnect: 250,
  restart: 200,
  restartMost: 1_000,
  /** Retries that are farther apart are treated as unrelated. */
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
  /**
   * Last check of the stream before the fence is armed: how long the stream must keep up, how much longer than
   * `max-lag` the marker can take, and interval between checks.
   */
  movingFor: 100,
  markerGrace: 2_000,
  markerLook: 20,
  /** How long a verification during streaming first waits for the source's current changes to reach the target. */
  arrival: 5_000,
  /** Delay between rounds of the recheck. */
  recheckPause: 500,
  /** Interval between checks for remaining writers under the fence. */
  holdersLook: 10,
  /**
   * How long a hold lasts without renewal, which must exceed a short outage of the target. Then the interval between
   * requests.
   */
  hold: 60_000,
  holdAsk: 1_000,
  /** Interval between checks whether the holder still renews the hold. */
  holderLook: 1_000,
  /** How long to wait until the sessions of a revoked login have ended, and the interval between checks. */
  sessionsEnd: 5_000,
  sessionsLook: 10,
  /** Time limit and check interval for building a unique index, and for waiting until schema changes have finished. */
  indexBuild: 600_000,
  indexLook: 250,
  jobsEnd: 60_000,
  jobsLook: 500,
  /**
   * The rolling proof: delay between rounds, longest wait for a round's marker, longest wait for the change log and its
   * interval between checks, and interval between saves.
   */
  proofRound: 200,
  proofMarker: 10_000,
  proofLog: 30_000,
  proofLogLook: 5,
  proofSave: 5_000,
  /**
   * Interval between checks of the rolling proof, and how long to wait until little is left to prove in the write
   * pause.
   */
  proofLook: 50,
  proofNear: 120_000,
  /** Delay before the rolling proof starts a new session after a failed session. */
  proofAgain: 1_000,
  /** Interval between keepalives of the change log's reader. The server drops a reader that is idle for 60 s. */
  changeLogAnswer: 2_000,
  /** Interval between samples after the switch. A client that connects for a shorter time can be missed. */
  observeSample: 5_000,
  /**
   * More than the largest clock offset between two nodes. A query `AS OF SYSTEM TIME` fails if that time is in the
   * future.
   */
  clockOffset: 600,
  /** Interval between samples of lag and WAL for the dossier. */
  streamSample: 500,
  /** Time limit for writing a failure to the ledger. Short, because the job is ending. */
  failureKept: 5_000,
  /** How long a connection may take to close before its socket is destroyed, for example during a COPY. */
  hangUp: 500,
  /** Lock timeout for discarding a masked copy. Short, because a cancelled run has only seconds. */
  discardLock: 3_000,
}

export type Timing = typeof DEFAULTS

/**
 * Reads shorter values for tests from `MOLT_ACTIONS_TEST_TIMING`, as JSON such as `{"walWindow":50}`. Ignored on a
 * GitHub runner, which sets `RUNNER_NAME`.
 * @throws ZodError for an unknown name
 */
function shortened({ MOLT_ACTIONS_TEST_TIMING: given, RUNNER_NAME: runner = 'local' }: NodeJS.ProcessEnv) {
  if (!given || runner !== 'local') return {}
  return z.partialRecord(z.enum(Object.keys(DEFAULTS)), z.number().min(0)).parse(JSON.parse(given))
}

export const TIMING: Readonly<Timing> = { ...DEFAULTS, ...shortened(process.env) }
