import * as z from 'zod'

/** How long the suite waits, and how often it checks, where no input sets it; in milliseconds. */
const DEFAULTS = {
  /** Attempts to connect to a database. */
  connectTimeout: 15_000,
  /** One run of `password-command`, and how long its password is used for further connections. */
  passwordCommand: 30_000,
  passwordKept: 60_000,
  /** A catalog statement, by the server's limit. */
  statementTimeout: 60_000,
  /** After the server's limit, until this side gives up. */
  statementGrace: 1_000,
  /** A statement on the fence; a slower one has met a broken connection. */
  fenceTimeout: 3_000,
  /** How long a failed cutover waits for work beside its verify. */
  besideEnds: 30_000,
  /** A table's lock for the fence's trigger; requested again if it is not granted. */
  fenceLock: 1_000,
  /** Delay before a retry on the target: the first and the maximum; doubled each time. */
  repeatFirst: 20,
  repeatMost: 1_500,
  /** One request to GitHub. */
  githubTimeout: 20_000,
  /** Unit of the back-off when GitHub fails. */
  githubBackoff: 1_000,
  /** One message to `notify-url`. */
  notifyTimeout: 5_000,
  /** Measuring how much WAL the source writes. */
  walWindow: 2_000,
  /** Sampling rows, in total. */
  sampleLimit: 10_000,
  /** Searching all tables for the column that a tool could not load. The failure is reported even without it. */
  columnLook: 60_000,
  /** Between two counts of the rows of a load. */
  loadSample: 1_000,
  /** The hold of a load lapses unless it is renewed; between two checks for an abort. */
  loadHold: 20_000,
  /** What a run has beyond its hold to end its load, or to take over a lapsing hold. */
  holdGrace: 5_000,
  abortLook: 2_000,
  /** Between two checks of imports whose runner was killed, two notices of it, and two checks of a load that `abort` waits for. */
  importLook: 1_000,
  importNotice: 30_000,
  loadEndLook: 500,
  /** From SIGTERM to SIGKILL for a tool, and for one that is stopped because the run ends; how often to check. */
  toolGrace: 5_000,
  toolStop: 1_000,
  toolLook: 20,
  /** For output that a descendant of an ended tool may still write. */
  pipeGrace: 1_000,
  /** A reply from the replicator's metrics endpoint. */
  metricsTimeout: 2_000,
  /** A tool's stall: the first warning, the longest gap between two, and how often to check. */
  stallFirst: 5 * 60_000,
  stallLongest: 60 * 60_000,
  stallLook: 1_000,
  /** The stream: between heartbeats, readings of the target's marker, measurements, and checks of both databases. */
  heartbeat: 250,
  lagLook: 50,
  slotLook: 500,
  watchLook: 1_000,
  /** Between two acknowledgements of the replicator, whose default of 5 s would be most of a write pause. */
  standby: 200,
  /** Longest time the replicator gathers changes before it writes them. */
  flush: 100,
  /** After a lost connection of the stream, and after a replicator that ended: multiplied by its ends without progress, at most. */
  reconnect: 250,
  restart: 200,
  restartMost: 1_000,
  /** Retries this far apart are unrelated. */
  retryGap: 5_000,
  /** Between two checks of the lag, of a request for the slot, and of its reader. */
  caughtUpLook: 100,
  handoverLook: 100,
  readerLook: 100,
  /** Until the server has noticed that a slot's reader is gone. */
  readerGone: 1_500,
  /** The drain: between two checks, and how long nothing may move. */
  drainLook: 10,
  drainStill: 60,
  /** The last test of the stream before the fence, and the marker's time on top of `max-lag`. */
  movingFor: 100,
  markerGrace: 2_000,
  markerLook: 20,
  /** Before a verify beside the stream: until the source's current changes have reached the target. */
  arrival: 5_000,
  /** Between two rounds of comparing rows again. */
  recheckPause: 500,
  /** Between two checks for writers under the fence. */
  holdersLook: 10,
  /** A hold of the migration lapses unless it is renewed: long enough for a short outage of the target; and between two requests for it. */
  hold: 60_000,
  holdAsk: 1_000,
  /** Between two checks whether a hold is renewed by its owner. */
  holderLook: 1_000,
  /** Until the sessions of a revoked login have ended, and between two checks of them. */
  sessionsEnd: 5_000,
  sessionsLook: 10,
  /** Until a unique index is built, and between two checks of it and of schema changes. */
  indexBuild: 600_000,
  indexLook: 250,
  jobsEnd: 60_000,
  jobsLook: 500,
  /** The rolling proof: between two rounds, until a round's marker or the log has arrived, and between two saves. */
  proofRound: 200,
  proofMarker: 10_000,
  proofLog: 30_000,
  proofLogLook: 5,
  proofSave: 5_000,
  /** Between two checks of its progress, and until so little is left that a write pause is short. */
  proofLook: 50,
  proofNear: 120_000,
  /** Between two of its sessions after a failed one. */
  proofAgain: 1_000,
  /** Between two keepalives of the change log's reader; the server drops one that is silent for 60 s. */
  changeLogAnswer: 2_000,
  /** Between two samples of a watch after the switch; short-lived clients are seen only by chance. */
  observeSample: 5_000,
  /** More than two nodes' clocks differ, because nothing can be read as of a future time. */
  clockOffset: 600,
  /** Between two samples of lag and WAL for the dossier. */
  streamSample: 500,
  /** To write a failure to the ledger: enough for a target that answers, and short for a job that ends. */
  failureKept: 5_000,
  /** A connection that may hang in a COPY. */
  hangUp: 500,
  /** A lock for discarding a masked copy: a cancelled run has few seconds. */
  discardLock: 3_000,
}

export type Timing = typeof DEFAULTS

/**
 * Tests shorten waits by `MOLT_ACTIONS_TEST_TIMING`, JSON such as `{"walWindow":50}`. A GitHub runner, recognized by its own
 * name, ignores the variable.
 * @throws ZodError for a name that is none of these
 */
function shortened({ MOLT_ACTIONS_TEST_TIMING: given, RUNNER_NAME: runner = 'local' }: NodeJS.ProcessEnv) {
  if (!given || runner !== 'local') return {}
  return z.partialRecord(z.enum(Object.keys(DEFAULTS)), z.number().min(0)).parse(JSON.parse(given))
}

export const TIMING: Readonly<Timing> = { ...DEFAULTS, ...shortened(process.env) }
