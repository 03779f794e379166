import { setTimeout as sleep } from 'node:timers/promises'
import { warning } from '@actions/core'
import {
  readClock,
  readConnectionLimit,
  readFailedJobs,
  readSight,
  readTargetSessions,
  readTargetStatements,
  readTargetTransactions,
  type Sight,
  type TargetStatement,
  type TargetTransactions,
} from '../../destination/activity.ts'
import { readTarget } from '../../destination/server.ts'
import type { Plan } from '../../model/plan.ts'
import { type Database, isConnectionLost, type Link } from '../../runtime/database.ts'
import { throwIfCancelled } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readSourceSessions, readStatements, type SourceSession } from '../../source/activity.ts'
import { writesRefused } from '../../source/fence.ts'
import { type Baseline, fingerprinted, OWN_APPLICATIONS, statementsBetween } from './baseline.ts'
import { type Counters, type Statements, sum } from './counters.ts'
import { isDml, statementFingerprint } from './fingerprint.ts'
import type { Missing, Seen, SessionCount, Straggler } from './verdict.ts'

export interface WatchOptions {
  source: Link
  target: Link
  plan: Plan
  baseline: Baseline
  /** Milliseconds. */
  durationMs: number
  /** Milliseconds between calls of `onLook`. */
  everyMs: number
  /** Applications and roles to ignore, such as a monitoring agent. */
  ignore: readonly string[]
  /**
   * Number of writes that the fence had refused when the last watch ended; undefined for the first watch. Refusals are
   * expected until the application has switched, so the first watch counts only those after its start.
   */
  refusedBefore: number | undefined
  /** Includes jobs that failed up to this many milliseconds before the watch. */
  jobsForMs: number
  signal: AbortSignal
  /** Called with what has been observed so far. */
  onLook(seen: Seen): Promise<void> | void
}

export interface Watched {
  seen: Seen
  transactions: TargetTransactions[]
  /** Duration of the watch in milliseconds. */
  durationMs: number
  /** Writes that the fence has refused in total; undefined if the fence does not count them. */
  refusedTotal: number | undefined
}

/**
 * Watches both sides for `durationMs`.
 * @throws CancelledError, or a database's error if the database could not be read at the start or at the end
 */
export async function watch(options: WatchOptions): Promise<Watched> {
  const begun = performance.now()
  const clients = new Clients(options)
  const refusedFirst = options.refusedBefore ?? (await options.source.use((db) => writesRefused(db)))
  const first = { ...(await options.target.use((db) => beginTarget(db))), refusedFirst }
  let reported = begun
  for (;;) {
    await clients.look()
    const now = performance.now()
    const left = options.durationMs - (now - begun)
    if (left <= 0) break
    if (now - reported >= options.everyMs) {
      reported = now
      await tolerant(async () => options.onLook((await look(options, first, clients)).seen))
    }
    await sleep(Math.min(TIMING.observeSample, options.everyMs, left), undefined, { signal: options.signal }).catch(
      () => {},
    )
    throwIfCancelled(options.signal)
  }
  const last = await look(options, first, clients)
  await options.onLook(last.seen)
  return last
}

/** Runs `work`, and only warns of a lost connection, because the next reading covers the gap. */
async function tolerant(work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!isConnectionLost(error)) throw error
    warning('A database did not respond. The watch continues.')
  }
}

interface FirstLook {
  /** Number of writes that the fence had refused before the watch. */
  refusedFirst: number | undefined
  /** Start of the watch, by this process's monotonic clock. */
  begun: number
  isCockroach: boolean
  sight: Sight
  since: Date
  statements: Statements | { missing: Missing }
}

async function beginTarget(db: Database): Promise<Omit<FirstLook, 'refusedFirst'>> {
  const { isCockroach } = await readTarget(db)
  const sight = isCockroach ? await readSight(db) : { activity: true, jobs: true, settings: true }
  const since = await readClock(db)
  const begun = performance.now()
  return { begun, isCockroach, sight, since, statements: await countedOnTarget(db, { isCockroach, sight, since }) }
}

async function countedOnTarget(
  db: Database,
  { isCockroach, sight, since }: Pick<FirstLook, 'isCockroach' | 'sight' | 'since'>,
): Promise<Statements | { missing: Missing }> {
  if (!sight.activity) return { missing: 'right' }
  if (isCockroach) return ofTarget(await readTargetStatements(db, since, OWN_APPLICATIONS))
  const found = await readStatements(db)
  return 'missing' in found ? found : fingerprinted(found)
}

/** Adds up the rows with the same fingerprint, across all users. */
export function ofTarget(rows: readonly TargetStatement[]): Statements {
  const found: Statements = {}
  for (const { query, application, ...row } of rows) {
    const fingerprint = statementFingerprint(query)
    if (!isDml(fingerprint)) continue
    const { lastError, ...figures } = row
    const counters: Counters = { ...figures, ...(lastError ? { lastError } : {}), applications: [application] }
    const known = found[fingerprint]
    found[fingerprint] = known ? sum(known, counters) : counters
  }
  return found
}

async function look(options: WatchOptions, first: FirstLook, clients: Clients): Promise<Watched> {
  const { isCockroach, sight, since } = first
  const { refusedTotal, role } = await options.source.use(async (db) => ({
    refusedTotal: await writesRefused(db),
    role: db.user ?? '',
  }))
  return options.target.use(async (db) => ({
    seen: {
      roles: { source: role, target: db.user ?? '' },
      statements: statementsBetween(first.statements, await countedOnTarget(db, first)),
      sessions: sight.activity ? clients.onTarget() : undefined,
      connectionLimit: isCockroach ? await readConnectionLimit(db) : await postgresLimit(db),
      failedJobs: isCockroach
        ? sight.jobs
          ? await readFailedJobs(db, new Date(since.getTime() - options.jobsForMs))
          : undefined
        : [],
      stragglers: clients.onSource(),
      refusedWrites: refusedTotal === undefined ? undefined : Math.max(0, refusedTotal - (first.refusedFirst ?? 0)),
    },
    transactions: isCockroach && sight.activity ? await readTargetTransactions(db, since, OWN_APPLICATIONS) : [],
    refusedTotal,
    durationMs: performance.now() - first.begun,
  }))
}

async function postgresLimit(db: Database): Promise<number> {
  return Number((await db.query('SHOW max_connections')).rows[0].max_connections)
}

/** Samples the sessions on both sides. On the source, keeps each client's highest number of simultaneous sessions. */
class Clients {
  readonly #options: WatchOptions
  readonly #source = new Map<string, Straggler>()
  #target: SessionCount[] | undefined
  #sourceSeen = false

  constructor(options: WatchOptions) {
    this.#options = options
  }

  async look(): Promise<void> {
    const { source, target, plan } = this.#options
    await tolerant(async () => {
      const sessions = await source.use((db) =>
        readSourceSessions(db, plan.sourceSchema, plan.tables, OWN_APPLICATIONS),
      )
      if (sessions) this.#sourceSeen = true
      for (const each of sessions ?? []) if (this.#isApplication(each)) this.#keep(each)
    })
    await tolerant(async () => {
      const sessions = await target.use((db) => targetSessions(db, plan))
      const count = (all: SessionCount[]) => all.reduce((sum, each) => sum + each.sessions, 0)
      if (count(sessions) >= count(this.#target ?? [])) this.#target = sessions
    })
  }

  /** The clients of the source; undefined if the sessions could never be read. */
  onSource(): Straggler[] | undefined {
    return this.#sourceSeen ? [...this.#source.values()] : undefined
  }

  /** The target's sessions at the reading with the most sessions. */
  onTarget(): SessionCount[] | undefined {
    return this.#target
  }

  /**
   * Whether a session belongs to the application: its client can write, or was connected before the commit. A
   * superuser's console is neither.
   */
  #isApplication({ role, application, mayWrite }: SourceSession): boolean {
    const { ignore, baseline } = this.#options
    if (ignore.includes(role) || ignore.includes(application)) return false
    return mayWrite || baseline.clients.some((each) => each.role === role && each.application === application)
  }

  #keep({ role, application, address, sessions, writes }: SourceSession): void {
    const key = JSON.stringify([role, application, address])
    const known = this.#source.get(key)
    this.#source.set(key, {
      role,
      application,
      address,
      sessions: Math.max(sessions, known?.sessions ?? 0),
      writes: writes || (known?.writes ?? false),
    })
  }
}

async function targetSessions(db: Database, plan: Plan): Promise<SessionCount[]> {
  const { isCockroach } = await readTarget(db)
  if (isCockroach) return readTargetSessions(db, OWN_APPLICATIONS)
  return (await readSourceSessions(db, plan.targetSchema, plan.tables, OWN_APPLICATIONS)) ?? []
}
