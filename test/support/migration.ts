import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import pg from 'pg'
import type { CockroachOptions } from '../../rehearsal/cockroach/server.ts'
import { type JobResult, type RunOptions, runAction } from '../../rehearsal/runner/runner.ts'
import { type LoadHandle, startLoad } from '../../rehearsal/shop/load.ts'
import { createShop } from '../../rehearsal/shop/shop.ts'
import { type Servers, startServers } from './servers.ts'

export const REPO = resolve(import.meta.dirname, '../..')

/** A source with the sample shop, a CockroachDB-like target, a live load, and the committed actions to move it. */
export interface Rehearsal {
  pair: Servers
  load: LoadHandle
  /** Runs one action. RUNNER_TEMP is kept between actions, as in a job. */
  run(name: string, inputs?: Record<string, string>, options?: Partial<RunOptions>): Promise<JobResult>
  /** Runs setup, prepare, fetch and replicate until caught up. Throws with the log of the step that failed. */
  bringToCaughtUp(prepare?: Record<string, string>): Promise<void>
  /** Runs the same steps without `replicate`: nothing has been streamed yet. */
  bringToLoaded(prepare?: Record<string, string>): Promise<void>
  /** Runs SQL as an administrator. On the target it bypasses the like-server, which would refuse or record it. */
  query(side: 'source' | 'target', sql: string, values?: unknown[]): Promise<Record<string, unknown>[]>
  stop(): Promise<void>
}

export async function startRehearsal(
  options: {
    rows?: number
    rate?: number
    /** Creates the target with the source's indexes and constraints, for the load to defer. */
    whole?: boolean
    /** Settings of both servers. */
    settings?: Record<string, string | number>
    cluster?: CockroachOptions
    sourceUrl?: (url: string) => string
    targetUrl?: (url: string) => string
  } = {},
): Promise<Rehearsal> {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-test-'))
  const pair = await startServers({ settings: options.settings, cluster: options.cluster })
  try {
    await Promise.all([
      createShop(pair.source.url, { rows: options.rows ?? 1500 }),
      createShop(pair.behind.url, { schemaOnly: true, whole: options.whole }),
    ])
    const load = await startLoad({ url: pair.source.url, rate: options.rate ?? 40, connections: 3 })
    const source = options.sourceUrl?.(pair.source.url) ?? pair.source.url
    const target = options.targetUrl?.(pair.target.url) ?? pair.target.url
    const run: Rehearsal['run'] = (name, inputs = {}, more = {}) =>
      runAction({
        dir: join(REPO, 'actions', name),
        repo: REPO,
        inputs: name === 'setup' ? inputs : { source, target, 'allow-insecure': 'true', ...inputs },
        workDir: join(folder, name),
        ...more,
        env: {
          PATH: `${join(folder, 'setup/_temp/molt-actions/stand-in')}:${process.env.PATH}`,
          // Fails on deprecations, which a dependency's next version could turn into errors.
          NODE_OPTIONS: '--throw-deprecation',
          ...more.env,
        },
      })
    const runAll = async (steps: typeof CHAIN, prepare: Record<string, string> = {}) => {
      for (const [name, inputs] of steps)
        requireSuccess(name, await run(name, name === 'prepare' ? { ...inputs, ...prepare } : inputs))
    }
    return {
      pair,
      load,
      run,
      bringToCaughtUp: (prepare) => runAll(CHAIN, prepare),
      bringToLoaded: (prepare) => runAll(CHAIN.slice(0, -1), prepare),
      query: (side, sql, values) => query((side === 'source' ? pair.source : pair.behind).url, sql, values),
      async stop() {
        await load.stop()
        await pair.stop()
        rmSync(folder, { recursive: true, force: true })
      },
    }
  } catch (error) {
    await pair.stop()
    throw error
  }
}

const CHAIN: [string, Record<string, string>][] = [
  ['setup', { embedded: 'true' }],
  ['prepare', {}],
  ['fetch', { mode: 'direct-copy' }],
  ['replicate', { until: 'caught-up', 'quiet-period': '500ms' }],
]

/** Factor by which to extend time limits on a busy machine; 1 if every thread has a processor. */
export function busyFactor(): number {
  return Math.max(1, (loadavg()[0] as number) / availableParallelism())
}

/** The whole log of a job's steps. */
export function words(result: JobResult): string {
  return result.steps.map((step) => step.log).join('\n')
}

export function requireSuccess(name: string, result: JobResult): void {
  if (result.conclusion !== 'success') throw new Error(`${name}: ${result.conclusion}\n${words(result)}`)
}

export async function query(url: string, sql: string, values?: unknown[]): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query(sql, values)).rows
  } finally {
    await client.end()
  }
}
