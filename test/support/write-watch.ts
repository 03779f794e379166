import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Side } from './fault-ground.ts'

/** An attempt by the application's role to write. The write does not change the row's values. */
export interface Attempt {
  side: Side
  /**
   * `paused`: refused by the fence; `moved`: refused by a permanent fence; `failed`: no privilege, no server, or
   * timeout.
   */
  came: 'accepted' | 'paused' | 'moved' | 'failed'
  /** `performance.now()` before the attempt and after its result, in milliseconds. */
  began: number
  ended: number
}

const SILENT_AFTER = 1_000

/** Keeps writing to both sides, to see when each side accepts writes. */
export class WriteWatch {
  readonly attempts: Attempt[] = []
  readonly #stop = new AbortController()
  readonly #isPermanent: () => Promise<boolean>
  readonly #over: Promise<unknown>

  /** @param urls URLs that log in as the application's role */
  constructor(urls: Record<Side, string>, isPermanent: () => Promise<boolean>) {
    this.#isPermanent = isPermanent
    this.#over = Promise.all((['source', 'target'] as const).map((side) => this.#watch(side, urls[side])))
  }

  async #watch(side: Side, url: string): Promise<void> {
    let client: pg.Client | undefined
    while (!this.#stop.signal.aborted) {
      const began = performance.now()
      client ??= await open(url)
      const came = await client.query('UPDATE categories SET name = name WHERE id = 1').then(
        () => 'accepted' as const,
        (error) => this.#refusal(error.code),
      )
      this.attempts.push({ side, came, began, ended: performance.now() })
      if (came === 'failed') {
        await client.end().catch(() => {})
        client = undefined
      }
      await sleep(20)
    }
    await client?.end().catch(() => {})
  }

  async #refusal(code: unknown): Promise<'paused' | 'moved' | 'failed'> {
    if (code !== '25006') return 'failed'
    return (await this.#isPermanent().catch(() => false)) ? 'moved' : 'paused'
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#over
  }

  /** Waits for a new attempt on each side. @returns the sides that accepted it */
  async open(): Promise<Side[]> {
    const now = performance.now()
    const sides: Side[] = []
    for (const side of ['source', 'target'] as const) {
      let found: Attempt | undefined
      while (!found) {
        found = this.attempts.findLast((each) => each.side === side && each.began >= now)
        if (!found) await sleep(10)
      }
      if (found.came === 'accepted') sides.push(side)
    }
    return sides
  }

  /** The longest time for which an undecided fence refused writes, in milliseconds. */
  longestPause(): number {
    let longest = 0
    let since: number | undefined
    for (const { side, came, began, ended } of this.attempts) {
      if (side !== 'source') continue
      since = came === 'paused' ? (since ?? began) : undefined
      if (since !== undefined) longest = Math.max(longest, ended - since)
    }
    return longest
  }

  /** Whether, from `since` on, the source accepted a write after the target had accepted one. */
  crossed(since: number): boolean {
    const accepted = this.attempts.filter(({ came, began }) => came === 'accepted' && began >= since)
    const first = accepted.find(({ side }) => side === 'target')
    return first !== undefined && accepted.some(({ side, began }) => side === 'source' && began > first.ended)
  }
}

/** Returns a client even if the connection fails. Its first query then fails. */
async function open(url: string): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: SILENT_AFTER,
    query_timeout: SILENT_AFTER,
    application_name: 'watch',
  })
  client.on('error', () => {})
  await client.connect().catch(() => {})
  return client
}
