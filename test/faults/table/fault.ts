import type pg from 'pg'
import type { Came, FaultGround, Side, State } from '../../support/fault-ground.ts'
import type { Moment } from '../../support/plain-script.ts'
import type { Trick } from '../../support/stand-in.ts'

/** Where a fault happens, and the comparable moment of the plain script. */
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

/** The rest of a migration from each state. */
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
  /** Default: `begin`, before the first step. Otherwise a checkpoint of `cutover`. */
  at?: Point
  /** Set up before anything runs. Its connection is kept and passed to `happens`. */
  before?: (ground: FaultGround) => Promise<pg.Client>
  /** What goes wrong at that point. */
  happens?: (ground: FaultGround, client: pg.Client | undefined) => Promise<unknown>
  /** Undone after the run, before the result is read; with `again`, before the step is run again. */
  after?: (ground: FaultGround) => Promise<unknown>
  /** The runner is killed there, and the step is run again. */
  killed?: true
  /** The runner of this step is killed as soon as the query has a row, and the step is run again. */
  dies?: { step: string; side: Side; once: string }
  /** A red step is run again once the fault is over: the possible codes of the first run. */
  again?: readonly string[]
  /** Both servers are behind proxies. */
  proxied?: true
  /** By which the runner's clock is ahead of both servers'. */
  hours?: number
  /** Of `cutover`. */
  inputs?: Record<string, string>
  /** No application writes, whose updates could undo the fault. */
  calm?: true
  trick?: Trick
  /** The plain script has nothing like it. */
  suiteOnly?: true
  /** `go` to the end, or the red step and its possible codes, where timing decides. */
  expect: 'go' | readonly [step: string, ...codes: string[]]
  /** Where the application can write in the end, if that is the fault's own doing. */
  open?: readonly Side[]
  /** Runs in every test run. */
  short?: true
}

export interface Ended extends Omit<Came, 'result'> {
  step: string
  /** The code of the first run, where the step was run again. */
  first?: string | undefined
}

/** A statement of an administrator's. */
export function sql(side: Side, text: string): (ground: FaultGround) => Promise<unknown> {
  return (ground) => ground.sql(side, text)
}

/** A connection that has run these statements and stays open. */
export function session(side: Side, ...texts: string[]): NonNullable<Fault['before']> {
  return async (ground) => {
    const client = await ground.client(side)
    for (const text of texts) await client.query(text)
    return client
  }
}

/** A write that may be refused; the rows show whether it was. */
export function attempt(side: Side, text: string, user = 'postgres'): NonNullable<Fault['happens']> {
  return async (ground) => {
    const client = await ground.client(side, user)
    await client.query(text).catch(() => {})
  }
}
