/**
 * Random nights: a workload, incidents at the checkpoints of the cutovers, and operators' runs. No row may be lost, and at
 * most one side may accept writes. A failing seed is printed; `MOLT_ACTIONS_SEED=<seed>` runs only that one,
 * `MOLT_ACTIONS_SEEDS=<first>-<last>` a range.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Came, FaultGround, type Side } from '../support/fault-ground.ts'
import { busyFactor } from '../support/migration.ts'
import { ofPart } from '../support/part.ts'
import { WriteWatch } from '../support/write-watch.ts'
import { POINTS, type Point } from './table/fault.ts'

const { MOLT_ACTIONS_SEED: one, MOLT_ACTIONS_SEEDS: many, MOLT_ACTIONS_NIGHTLY: night } = process.env
const [first = 1, last = 1] = (many ?? (night ? '1-300' : '1-2')).split('-').map(Number)
const SEEDS = one ? [Number(one)] : ofPart(Array.from({ length: last - first + 1 }, (_, i) => first + i))

const LEASE = 4_000
const MAX_PAUSE = 6_000
/** Milliseconds for a lease renewal in progress and one round of the write watch. */
const SLACK = 1_500
const CUTOVER = { lease: `${LEASE}ms`, 'max-pause': `${MAX_PAUSE}ms`, 'handover-timeout': '2s' }
const CLEANUP = { 'rollback-window': '0s', waive: 'observe, compare' }

/** What goes wrong while a cutover is suspended at a checkpoint. */
type Mishap =
  | { do: 'kill' }
  /** An operator starts another run. */
  | { do: 'abort' | 'status' | 'rollback' }
  | { do: 'stand still'; ms: number }
  | { do: 'restart' | 'crash' | 'end sessions'; side: Side }
  /** An administrator does this. */
  | { do: 'change the target' | 'write past the fence' }

type Incident = { at: Point; mishap: Mishap } | { code: '40001' | '40003'; only: number } | undefined

type Operation = 'cutover' | 'abort' | 'rollback' | 'finalize' | 'cleanup' | 'status'

const side = fc.constantFrom<Side>('source', 'target')
const mishap: fc.Arbitrary<Mishap> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('kill' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom('abort' as const, 'status' as const, 'rollback' as const) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('stand still' as const), ms: fc.integer({ min: 200, max: 6_000 }) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom('restart' as const, 'crash' as const, 'end sessions' as const), side }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom('change the target' as const, 'write past the fence' as const) }),
  },
)
const points = Object.keys(POINTS).filter((name) => name !== 'begin') as Point[]
const incident: fc.Arbitrary<Incident> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ at: fc.constantFrom(...points), mishap }) },
  {
    weight: 2,
    arbitrary: fc.record({
      code: fc.constantFrom('40001' as const, '40003' as const),
      only: fc.integer({ min: 1, max: 160 }),
    }),
  },
  { weight: 1, arbitrary: fc.constant(undefined) },
)
const operation = fc.constantFrom<Operation>('cutover', 'abort', 'rollback', 'finalize', 'cleanup', 'status')
const model = fc.record({
  rate: fc.constantFrom(0, 20, 100),
  /** One for each of the first cutovers. */
  incidents: fc.array(incident, { minLength: 1, maxLength: 2 }),
  operations: fc.array(operation, { maxLength: 2 }),
})
type Model = typeof model extends fc.Arbitrary<infer T> ? T : never

let ground: FaultGround
beforeAll(async () => {
  ground = await FaultGround.start('caught-up')
}, 300_000)
afterAll(() => ground?.stop())

interface Standing {
  /** Whether the commit was decided. The source is authoritative. */
  decided: boolean
  /** The ledger's phase; undefined if its entry is missing. */
  phase: string | undefined
}

async function standing(): Promise<Standing> {
  const [entry] = await ground.sql('target', 'SELECT phase FROM molt_actions.migrations').catch(() => [])
  return { decided: await isPermanent(), phase: entry?.phase as string | undefined }
}

async function isPermanent(): Promise<boolean> {
  const text = 'SELECT last_value = 9223372036854775807 AS permanent FROM molt_actions.fence_lease'
  const [row] = await ground.sql('source', text).catch(() => [])
  return row?.permanent === true
}

/** One run of the model. */
class Night {
  readonly #model: Model
  readonly #watch: WriteWatch
  /** Operations and their outcomes, shown when an expectation fails. */
  readonly log: string[] = []
  /** Whether an administrator changed rows, which a comparison must find. */
  #tampered = false
  /** Time from which at most one side may accept writes; infinite once the migration is aborted or complete. */
  #oneSideFrom = 0
  #open: readonly Side[] = []

  constructor(model: Model) {
    this.#model = model
    const app = (url: string) => url.replace('//postgres:', '//app:')
    this.#watch = new WriteWatch({ source: app(ground.source.url), target: app(ground.behind.url) }, isPermanent)
  }

  async take(): Promise<void> {
    try {
      this.#open = await this.#watch.open()
      for (const incident of this.#model.incidents) await this.#operate('cutover', incident)
      for (const operation of this.#model.operations) await this.#operate(operation)
      await this.#end()
    } finally {
      await this.#watch.stop()
    }
    this.#requireOneSide()
    // A run that is killed at the end of its pause may have just renewed its lease.
    const longest = MAX_PAUSE + LEASE + SLACK * busyFactor()
    expect(this.#watch.longestPause(), this.#told('both sides were closed')).toBeLessThan(longest)
  }

  #told(what: string): string {
    return `${what}: ${JSON.stringify(this.#model)}\n${this.log.join('\n')}`
  }

  #requireOneSide(): void {
    expect(this.#watch.crossed(this.#oneSideFrom), this.#told('both sides took writes')).toBe(false)
  }

  /** Runs an action. `abort`, `cleanup` and `rollback` restore privileges, so both sides can accept writes afterwards. */
  async #givingBack(action: string, work: () => Promise<Came>): Promise<Came> {
    if (!/^(abort|cleanup|rollback)$/.test(action)) return work()
    this.#requireOneSide()
    const came = await work()
    const { phase } = await standing()
    this.#oneSideFrom = phase === undefined || phase === 'aborted' ? Number.POSITIVE_INFINITY : performance.now()
    return came
  }

  async #operate(action: Operation, incident?: Incident): Promise<Came> {
    const before = await standing()
    await this.#requireNothingOpened(before)
    if (incident && 'code' in incident) ground.cluster.options.failEach = { ...incident, application: 'molt-actions' }
    const met = incident && 'at' in incident ? incident : undefined
    const inputs = action === 'cutover' ? CUTOVER : action === 'cleanup' ? CLEANUP : {}
    const at = met && { point: met.at, work: (pid: number) => this.#happens(met, pid) }
    const came = await this.#givingBack(action, () => ground.run(action, { inputs, at }))
    ground.cluster.options.failEach = undefined
    const after = await standing()
    this.log.push(`${action} ${JSON.stringify(incident ?? {})}: ${came.red ?? 'green'} → ${JSON.stringify(after)}`)
    const undone = met?.mishap.do === 'rollback' || action === 'rollback' || action === 'cleanup'
    if (before.decided && !undone) expect(after.decided, this.#told('a decision was taken back')).toBe(true)
    await this.#judge(action, came, after)
    this.#open = await this.#watch.open()
    return came
  }

  async #happens({ at, mishap }: { at: Point; mishap: Mishap }, pid: number): Promise<void> {
    if (mishap.do === 'kill') return void process.kill(pid, 'SIGKILL')
    try {
      await this.#meet(at, mishap)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
  }

  async #meet(at: Point, mishap: Exclude<Mishap, { do: 'kill' }>): Promise<unknown> {
    switch (mishap.do) {
      case 'stand still':
        return sleep(mishap.ms)
      case 'restart':
      case 'crash':
        return ground[mishap.side === 'source' ? 'source' : 'behind'].restart(
          mishap.do === 'crash' ? 'immediate' : 'fast',
        )
      case 'end sessions':
        return ground.sql(mishap.side, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mover'")
      case 'change the target':
        return this.#changeTarget(at)
      case 'write past the fence':
        return this.#writePast(at)
      default: {
        const { do: action } = mishap
        const { red } = await this.#givingBack(action, () => ground.run(action, { beside: true }))
        this.log.push(`${action} beside it: ${red ?? 'green'}`)
      }
    }
  }

  /** Deletes a row on the target. After the commit, this could be the application's own write, so nothing is deleted. */
  async #changeTarget(at: Point): Promise<void> {
    if (points.indexOf(at) > points.indexOf('permanent on the source')) return
    await ground.sql('target', 'DELETE FROM categories WHERE id = 3')
    this.#tampered = true
  }

  async #writePast(at: Point): Promise<void> {
    if (points.indexOf(at) < points.indexOf('stream off')) return
    await ground.sql(
      'source',
      `ALTER TABLE categories DISABLE TRIGGER molt_actions_fence; DELETE FROM categories WHERE id = 4;
       ALTER TABLE categories ENABLE ALWAYS TRIGGER molt_actions_fence`,
    )
    this.#tampered = true
  }

  /** Expects that no side started to accept writes between two runs, except the source when a lease expired. */
  async #requireNothingOpened({ decided }: Standing): Promise<void> {
    const opened = (await this.#watch.open()).filter((each) => !this.#open.includes(each))
    expect(decided ? opened : opened.filter((each) => each !== 'source'), this.#told('opened by itself')).toEqual([])
  }

  async #judge(action: Operation, came: Came, after: Standing): Promise<void> {
    expect(came.red, `${this.#told('a bug')}\n${came.log}`).not.toBe('internal.bug')
    // The ledger copies the decision from the source: it can lag one step behind but is never ahead.
    if (['committed', 'switched', 'finalized'].includes(after.phase ?? ''))
      expect(after.decided, this.#told('the ledger is ahead of the source')).toBe(true)
    if (!came.red && action === 'cutover') {
      expect(after, this.#told('a green cutover')).toEqual({
        decided: true,
        phase: expect.stringMatching(/switched|finalized/),
      })
      expect(await this.#watch.open(), this.#told('a green cutover')).toEqual(['target'])
      await this.#requireEvidence()
    }
    if (!came.red && (action === 'abort' || action === 'cleanup')) await this.#requireNothingLeft()
  }

  async #requireEvidence(): Promise<void> {
    // A run that was killed after its last step has left no evidence.
    const rows = await ground.sql(
      'target',
      "SELECT body FROM molt_actions.evidence WHERE action = 'cutover' ORDER BY at DESC LIMIT 1",
    )
    for (const { body } of rows)
      expect(body, this.#told('evidence')).toMatchObject({ decision: 'commit', phase: 'switched' })
  }

  /** Finishes the migration in the only way that the decision still allows, as the messages say. */
  async #end(): Promise<void> {
    const { decided, phase } = await standing()
    if (phase === undefined || phase === 'aborted') return this.#untilOpen('source')
    if (phase === 'rolled-back') {
      await this.#untilOpen('source')
      return expect(await this.#watch.open(), this.#told('rolled back')).toEqual(['source'])
    }
    if (!decided) {
      await this.#untilDone('abort')
      return this.#untilOpen('source')
    }
    if (phase === 'committing' || phase === 'committed') await this.#untilDone('cutover')
    expect(await this.#watch.open(), this.#told('switched')).toEqual(['target'])
    await ground.stopApplication()
    const finalized = await this.#operate('finalize')
    const { rows } = await ground.look()
    if (finalized.red) expect(this.#tampered, `${this.#told('finalize')}\n${finalized.log}`).toBe(true)
    else expect(rows, this.#told('rows were lost')).toEqual({})
    if (!finalized.red) await this.#untilDone('cleanup')
  }

  async #untilOpen(side: Side): Promise<void> {
    const end = performance.now() + 2 * LEASE
    while (!(await this.#watch.open()).includes(side))
      if (performance.now() > end) throw new Error(this.#told(`the ${side} stays closed`))
  }

  /** Repeats an action until the hold and the fence of a killed run have expired. */
  async #untilDone(action: Operation): Promise<void> {
    let came: Came
    const end = performance.now() + 30_000
    do came = await this.#operate(action)
    while (/^(hold|fence\.armed-by-other)/.test(came.red ?? '') && performance.now() < end)
    expect(came.red, `${this.#told('cannot be finished')}\n${came.log}`).toBeUndefined()
  }

  async #requireNothingLeft(): Promise<void> {
    const [source] = await ground.sql(
      'source',
      `SELECT (SELECT count(*)::int FROM pg_replication_slots) AS slots, (SELECT count(*)::int FROM pg_publication) AS publications,
              (SELECT count(*)::int FROM pg_trigger WHERE tgname LIKE 'molt_actions%') AS triggers,
              to_regnamespace('molt_actions')::text AS schema`,
    )
    expect(source, this.#told('left on the source')).toEqual({ slots: 0, publications: 0, triggers: 0, schema: null })
    const target = await ground.sql(
      'target',
      `SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'molt\\_staging%'
       UNION ALL SELECT relname FROM pg_class WHERE relname = 'molt_actions_heartbeat'
       UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'molt\\_leg\\_%'`,
    )
    expect(target, this.#told('left on the target')).toEqual([])
  }
}

/** Outcome of the operations → number of nights. */
const came: Record<string, number> = {}

async function judge(model: Model): Promise<void> {
  await ground.restore('caught-up', model.rate)
  const night = new Night(model)
  await night.take()
  for (const line of night.log) {
    const what = line.replace(/ \{.*?\}+:/, ':').replace(/ →.*/, '')
    came[what] = (came[what] ?? 0) + 1
  }
}

test(`${SEEDS.length} random migrations lose no rows, and never let both sides accept writes`, {
  timeout: 120_000 * SEEDS.length,
}, async () => {
  const failed: string[] = []
  for (const seed of SEEDS)
    await fc.assert(fc.asyncProperty(model, judge), { seed, numRuns: 1, endOnFailure: true }).catch((error) => {
      failed.push(`MOLT_ACTIONS_SEED=${seed}: ${String(error.cause ?? error)}\n${error.message}`)
      console.error(failed.at(-1))
    })
  console.log(`${SEEDS.length} nights: ${JSON.stringify(came)}`)
  expect(failed).toEqual([])
})
