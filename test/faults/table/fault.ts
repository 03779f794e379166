import type pg from 'pg'
import type { Came, FaultGround, Side, State } from '../../support/fault-ground.ts'
import type { Moment } from '../../support/plain-script.ts'
import type { Trick } from '../../support/stand-in.ts'

/** Checkpoint of the cutover → the comparable moment in the plain script. */
export const POINTS = {
  begin: 'begin',
  'caught up': 'streaming',
  'before arming': 'streaming',
  armed: 'stopped',
  drained: 'drained',
  'stream off': 'drained',
  verified: 'verified',
  'sequences set': 'verified',
  'unique indexes built': 'verified',
  committing: 'verified',
  'permanent on the source': 'switched',
  committed: 'switched',
  'write access open': 'switched',
  'switch command done': 'switched',
  switched: 'switched',
} as const satisfies Record<string, Moment>
export type Point = keyof typeof POINTS

/** State → the steps that remain from there. */
export const STEPS: Record<State, readonly string[]> = {
  fresh: ['prepare', 'fetch', 'replicate', 'cutover', 'finalize'],
  prepared: ['fetch', 'replicate', 'cutover', 'finalize'],
  loaded: ['replicate', 'cutover', 'finalize'],
  'caught-up': ['cutover', 'finalize'],
}

export interface Fault {
  name: string
  topic: string
  from: State
  /** Checkpoint of `cutover` where the fault happens. Default: `begin`, before the first step. */
  at?: Point
  /** Runs before the first step. Its connection stays open and is passed to `happens`. */
  before?: (ground: FaultGround) => Promise<pg.Client>
  /** Causes the fault, at `at`. */
  happens?: (ground: FaultGround, client: pg.Client | undefined) => Promise<unknown>
  /** Undoes the fault after the run, before the result is read; with `again` or a killed runner, before the rerun. */
  after?: (ground: FaultGround) => Promise<unknown>
  /** The runner is killed at `at`, and the step is rerun. */
  killed?: true
  /** The runner of this step is killed as soon as the query `once` returns a row, and the step is rerun. */
  dies?: { step: string; side: Side; once: string }
  /** Possible codes of a failed step. Once the fault is undone, the step is rerun. */
  again?: readonly string[]
  /** Both servers are reached through proxies. */
  proxied?: true
  /** Hours by which the runner's clock is ahead of both servers. */
  hours?: number
  /** Extra inputs of `cutover`. */
  inputs?: Record<string, string>
  /** The application does not write, because its updates could undo the fault. */
  calm?: true
  trick?: Trick
  /** The plain script has no equivalent. */
  suiteOnly?: true
  /**
   * `go` if every step succeeds, otherwise the step that fails and its possible codes, which depend on timing. A code of
   * another step is written `step: code`.
   */
  expect: 'go' | readonly [step: string, ...codes: string[]]
  /** Where the application can write in the end, if the fault itself decides that. */
  open?: readonly Side[]
  /** Also runs in `npm test`. */
  short?: true
}

export interface Ended extends Omit<Came, 'result'> {
  step: string
  /** The first run's code, if the step was rerun. */
  first?: string | undefined
}

/** Runs statements as an administrator. */
export function sql(side: Side, text: string): (ground: FaultGround) => Promise<unknown> {
  return (ground) => ground.sql(side, text)
}

/** Opens a connection, runs these statements and leaves it open. */
export function session(side: Side, ...texts: string[]): NonNullable<Fault['before']> {
  return async (ground) => {
    const client = await ground.client(side)
    for (const text of texts) await client.query(text)
    return client
  }
}

/** Tries a write and ignores an error. The rows show later whether the write succeeded. */
export function attempt(side: Side, text: string, user = 'postgres'): NonNullable<Fault['happens']> {
  return async (ground) => {
    const client = await ground.client(side, user)
    await client.query(text).catch(() => {})
  }
}
