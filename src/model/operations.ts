/*
 * The parts of the write pause in order, with what each does and proves. The pause clock accepts only these parts, and
 * a test compares their order with a real cutover.
 */

type Decision = 'rehearse' | 'commit'

export interface Operation {
  /** Name of the part in `pause-parts` and `estimated-parts`. */
  name: string
  /** The decision that includes this part; absent if both do. */
  decision?: Decision
  /** Input without which the part is skipped. */
  unless?: 'smokeTest'
  /** Inputs that configure the part. */
  inputs: readonly string[]
  does: string
  proves: string
}

const OPERATIONS = [
  {
    name: 'fence',
    inputs: ['lease', 'holders-timeout'],
    does: 'Refuses writes to the expected tables on the source, and waits until every writing transaction has ended.',
    proves: 'A test write is refused with the id of this fence.',
  },
  {
    name: 'drain',
    inputs: ['drain-timeout'],
    does: 'Writes a marker on the source and waits for it on the target.',
    proves:
      'Everything committed before the fence has been applied to the target, in order, by one replicator without retries.',
  },
  {
    name: 'stream off',
    inputs: [],
    does: "Stops the replicator and revokes the stream's login.",
    proves: 'No replicator, not even a frozen one of an earlier leg, can write to the target.',
  },
  {
    name: 'smoke test',
    unless: 'smokeTest',
    inputs: ['smoke-test', 'smoke-test-timeout'],
    does: 'Runs your program with a read-only URL of the target.',
    proves: 'Your program exits with code 0.',
  },
  {
    name: 'verify',
    inputs: ['final-verify'],
    does: 'Compares source and target at the level of `final-verify`.',
    proves: 'Nothing that this level compares is missing, different or extraneous.',
  },
  {
    name: 'sequences',
    inputs: ['sequence-margin'],
    does: "Sets the target's sequences past the last used values and reads them back, in parallel with the verify.",
    proves: 'The next value of each sequence is free on the target.',
  },
  {
    name: 'unique indexes',
    inputs: [],
    does: 'Rebuilds the unique indexes, checks and foreign keys that were dropped for the load, in parallel with the verify.',
    proves: 'Each unique index is built and valid.',
  },
  {
    name: 'indexes off again',
    decision: 'rehearse',
    inputs: [],
    does: 'Drops the rebuilt indexes and constraints, because the stream continues.',
    proves: 'Nothing blocks the stream.',
  },
  {
    name: 'lift',
    decision: 'rehearse',
    inputs: [],
    does: 'Lifts the fence.',
    proves: 'The fence held until then, and both schemas are unchanged.',
  },
  {
    name: 'commit',
    decision: 'commit',
    inputs: ['holders-timeout'],
    does: 'Makes the fence permanent on the source, and records the commit in the ledger.',
    proves: 'The fence held until then, no write passed it, and both schemas are unchanged.',
  },
  {
    name: 'write access',
    decision: 'commit',
    inputs: [],
    does: 'Restores write access to the target for the application roles.',
    proves: 'Each role has all its previous privileges.',
  },
] as const satisfies readonly Operation[]

/** Name of a part of the write pause. */
export type PartName = (typeof OPERATIONS)[number]['name']

/** The parts of a cutover with this decision, in order. */
export function operationsOf(decision: Decision, inputs: { smokeTest?: readonly string[] | undefined }): Operation[] {
  const operations: readonly Operation[] = OPERATIONS
  return operations.filter(
    (each) => (!each.decision || each.decision === decision) && (!each.unless || inputs[each.unless]?.length),
  )
}

/** Index of a part in the pause, from 0. */
export function partIndex(part: string): number {
  return OPERATIONS.findIndex(({ name }) => name === part)
}
