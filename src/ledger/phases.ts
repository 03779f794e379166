import type { NextStep } from '../runtime/codes.ts'

/** The phases of a migration, in order. `aborted` and `rolled-back` end it early. */
export const PHASES = [
  'planned',
  'prepared',
  'loaded',
  'caught-up',
  'approved',
  'committing',
  'committed',
  'switched',
  'finalized',
  'cleaned',
  'aborted',
  'rolled-back',
] as const
export type Phase = (typeof PHASES)[number]

/** Phases in which a replicator may read the slot: the load is complete, and no cutover has started its commit. */
export const STREAMING: readonly Phase[] = ['loaded', 'caught-up', 'approved']
/** Phases of {@link STREAMING} in which a cutover can start. */
export const CAUGHT_UP: readonly Phase[] = ['caught-up', 'approved']
/** Phases in which the target has taken over, and the source must not change. */
export const COMMITTED: readonly Phase[] = ['committed', 'switched', 'finalized']
/** {@link COMMITTED} and `committing`. In `committing`, only the source knows whether the commit succeeded. */
export const DECIDED: readonly Phase[] = ['committing', ...COMMITTED]

/** Describes the state of a migration in each phase. Used after "is", as in "`main` is caught up". */
export const STANDS: Readonly<Record<Phase, string>> = {
  planned: 'only planned',
  prepared: 'only prepared',
  loaded: 'only loaded',
  'caught-up': 'caught up',
  approved: 'approved',
  committing: 'in the middle of its commit',
  committed: 'committed, but not switched',
  switched: 'switched',
  finalized: 'finalized',
  cleaned: 'cleaned up',
  aborted: 'aborted',
  'rolled-back': 'rolled back',
}

/**
 * The next command for a migration in `phase`.
 * @returns undefined when nothing is left to do
 */
export function nextOf(phase: Phase, facts: { load?: Load }): NextStep | undefined {
  switch (phase) {
    case 'planned':
      return { action: 'prepare' }
    case 'prepared':
      return { action: 'fetch', inputs: interrupted(facts.load) }
    case 'loaded':
      return { action: 'replicate' }
    case 'caught-up':
    case 'approved':
      return { action: 'cutover' }
    case 'committing':
      return { action: 'cutover', inputs: { decision: 'commit' } }
    case 'committed':
      return {
        action: 'finalize',
        inputs: { 'switched-by-hand': 'true' },
        before: 'Point the application at the target, and check that it writes there.',
      }
    case 'switched':
      return { action: 'finalize' }
    case 'finalized':
      return {
        action: 'cleanup',
        before: 'Run `observe` until the application is healthy and `rollback-window` is over.',
      }
    case 'aborted':
      return { action: 'abort' }
    case 'rolled-back':
      return { action: 'cleanup' }
    case 'cleaned':
      return undefined
  }
}

/** What decides whether an interrupted load can be resumed. */
type Load = { mode: string; cursor?: string } | null

/** Inputs for `fetch` after an interrupted load. A direct copy, or a load that has no slot yet, cannot be resumed. */
function interrupted(load: Load | undefined): Record<string, string> | undefined {
  if (!load) return undefined
  const resumable = load.cursor && load.mode !== 'direct-copy'
  return { 'on-interrupted': resumable ? 'resume' : 'restart' }
}
