/**
 * The script that you would write without this project: runs MOLT's documented commands, and judges them by their
 * output.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { freePort } from '../../src/tools/ports.ts'
import type { FaultGround, State } from './fault-ground.ts'

/** Moments at which a fault can hit the script. */
export type Moment = 'begin' | 'streaming' | 'stopped' | 'drained' | 'verified' | 'switched'

/** `go`, or the reason why the script stops. */
export type Conclusion = string

interface Ended {
  code: number | null
  events: Record<string, unknown>[]
}

const WAIT = 30_000
/** How long the apply rate must be zero, in milliseconds. */
const STILL = 1_000

export class PlainScript {
  readonly #ground: FaultGround
  readonly #tools: string
  readonly #meets: (moment: Moment) => Promise<boolean | undefined>

  /** @param meets called at each moment; returns true if the script is killed there */
  constructor(ground: FaultGround, tools: string, meets: (moment: Moment) => Promise<boolean | undefined>) {
    this.#ground = ground
    this.#tools = tools
    this.#meets = meets
  }

  async run(from: State): Promise<Conclusion> {
    try {
      await this.#happens('begin')
      if (from === 'fresh' || from === 'prepared') await this.#fetch()
      await this.#replicate()
      await this.#verify()
      await this.#happens('verified')
      await this.#happens('switched')
      return 'go'
    } catch (error) {
      if (error instanceof Stops) return error.message
      throw error
    }
  }

  async #happens(moment: Moment): Promise<void> {
    if (await this.#meets(moment)) throw new Stops('killed')
  }

  /** Runs molt fetch. Requires exit code 0 and "fetch complete". */
  async #fetch(): Promise<void> {
    const { code, events } = await this.#molt('fetch', [
      '--direct-copy',
      '--table-handling=truncate-if-exists',
      '--pglogical-replication-slot-name=molt_slot',
      '--pglogical-publication-and-slot-drop-and-recreate',
      '--non-interactive',
    ])
    if (code !== 0) throw new Stops(`fetch: exit code ${code ?? 'none'}`)
    if (!events.some(({ message }) => message === 'fetch complete')) throw new Stops('fetch: no "fetch complete"')
  }

  /** Runs the replicator until the application is stopped and the apply rate is zero, then stops the replicator. */
  async #replicate(): Promise<void> {
    const port = await freePort()
    const child = spawn(
      join(this.#tools, 'replicator'),
      [
        'pglogical',
        `--sourceConn=${this.#ground.urls.source}`,
        `--targetConn=${this.#ground.urls.target}`,
        '--targetSchema=shop.public',
        '--slotName=molt_slot',
        '--publicationName=molt_fetch',
        '--stagingSchema=shop._plain',
        '--stagingCreateSchema',
        `--metricsAddr=127.0.0.1:${port}`,
      ],
      { stdio: 'ignore' },
    )
    const over = endOf(child)
    try {
      await this.#until(over, async () => (await applied(port)) !== undefined, 'its metrics')
      await sleep(500)
      await this.#happens('streaming')
      await this.#ground.stopApplication()
      await this.#happens('stopped')
      let last: number | undefined
      let since = performance.now()
      const still = async () => {
        const now = await applied(port)
        if (now !== last) since = performance.now()
        last = now
        return now !== undefined && performance.now() - since > STILL
      }
      await this.#until(over, still, 'a rate of zero')
      child.kill('SIGTERM')
      const code = await Promise.race([over, sleep(WAIT, 'late' as const)])
      if (code === 'late') throw new Stops('replicator: did not end')
      if (code !== 0) throw new Stops(`replicator: exit code ${code ?? 'none'}`)
      await this.#happens('drained')
    } finally {
      child.kill('SIGKILL')
      await over
    }
  }

  async #until(over: Promise<number | null>, probe: () => Promise<boolean>, what: string): Promise<void> {
    let code: number | null | undefined
    void over.then((ended) => {
      code = ended
    })
    for (const end = performance.now() + WAIT; !(await probe()); await sleep(100)) {
      if (code !== undefined) throw new Stops(`replicator: exit code ${code ?? 'none'}`)
      if (performance.now() > end) throw new Stops(`replicator: never ${what}`)
    }
  }

  /** Runs molt verify. Requires exit code 0, "verification complete", and no missing, different or extra row. */
  async #verify(): Promise<void> {
    const { code, events } = await this.#molt('verify', [])
    if (code !== 0) throw new Stops(`verify: exit code ${code ?? 'none'}`)
    if (!events.some(({ message }) => message === 'verification complete')) throw new Stops('verify: not complete')
    for (const name of ['num_missing', 'num_mismatch', 'num_extraneous'])
      if (events.some((event) => Number(event[name] ?? 0) > 0)) throw new Stops(`verify: ${name} is not zero`)
  }

  async #molt(command: string, args: string[]): Promise<Ended> {
    const child = spawn(
      join(this.#tools, 'molt'),
      [
        command,
        ...['--source', this.#ground.urls.source],
        ...['--target', this.#ground.urls.target],
        ...['--table-filter', `^(${SHOP_TABLES.join('|')})$`],
        '--allow-tls-mode-disable',
        ...args,
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    )
    const events: Ended['events'] = []
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line.startsWith('{')) events.push(JSON.parse(line))
    })
    const over = endOf(child)
    const code = await Promise.race([over, sleep(WAIT, 'late' as const)])
    if (code !== 'late') return { code, events }
    child.kill('SIGTERM')
    throw new Stops(`${command}: did not end`)
  }
}

class Stops extends Error {}

function endOf(child: ChildProcess): Promise<number | null> {
  return new Promise((done) => {
    child.on('error', () => done(null))
    child.on('close', (code) => done(code))
  })
}

/** Number of changes that the replicator has applied, from its metrics; undefined if it does not answer. */
async function applied(port: number): Promise<number | undefined> {
  const text = await fetch(`http://127.0.0.1:${port}/_/varz`).then(
    (answer) => answer.text(),
    () => undefined,
  )
  if (text === undefined) return undefined
  const values = [...text.matchAll(/^(?:target_)?apply_(?:upserts|deletes)_total\{[^}]*\} (\S+)$/gm)]
  return values.reduce((sum, [, value]) => sum + Number(value), 0)
}
