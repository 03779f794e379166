import { qualified } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import { numbersLeft, type Sequence, unfitSequence } from '../sql/sequences.ts'
import type { Check, Hit } from './check.ts'
import type { Facts } from './facts/facts.ts'

/** Fewer remaining numbers than this get a warning, because a busy table may use them up within days. */
const FEW = 10_000n

/**
 * Checks the sequences by their definitions on both sides. A trial `setval` on the target would not be undone by a
 * rollback.
 */
export const sequenceChecks: readonly Check[] = [
  {
    id: 'tgt.sequence-definition',
    severity: 'block',
    title: 'Sequences count the same way on both sides',
    protects:
      'Frameworks that reserve numbers in blocks, such as Hibernate, rely on the increment. With a different increment, inserts collide. A sequence that cycles on only one side repeats numbers there, or runs out on the other.',
    fix: '{fix}',
    *find(facts) {
      for (const { sequence, there } of pairs(facts)) {
        const wanted = differences(sequence, there)
        if (wanted.length) yield definitionHit(facts, sequence, wanted)
      }
    },
  },
  {
    id: 'tgt.sequence-end',
    severity: 'block',
    waivable: false,
    title: 'Every sequence has numbers left on the target',
    protects:
      'Otherwise, the cutover cannot set the sequence past the numbers already used, or every insert on the target fails.',
    fix: '{fix}',
    *find(facts) {
      const { targetSchema } = facts.settings
      for (const { sequence, there, used } of pairs(facts)) {
        const unfit = unfitSequence(sequence, there, targetSchema, used)
        // If the directions differ, `tgt.sequence-definition` reports it.
        if (unfit && sequence.increment > 0n === there.increment > 0n)
          yield { object: `${targetSchema}.${sequence.name}`, what: unfit.what, names: { fix: unfit.fix } }
      }
    },
  },
  {
    id: 'tgt.sequence-margin',
    severity: 'warn',
    title: 'No sequence is close to exhaustion',
    protects:
      'The cutover skips `sequence-margin` numbers to leave room for inserts in flight. A sequence near exhaustion may not have that many left.',
    fix: 'Before the load, change the sequence, and the column of {table} that it feeds, to bigint on both sides.',
    *find(facts) {
      for (const { sequence, there, used } of pairs(facts)) {
        const left = used === null || sequence.cycle ? FEW : numbersLeft(there, used)
        if (left > 0n && left < FEW)
          yield {
            object: `${facts.settings.targetSchema}.${sequence.name}`,
            what: `the sequence ${facts.settings.targetSchema}.${sequence.name} has ${number(Number(left))} numbers left on the target`,
            names: { table: qualified(facts.settings.targetSchema, there.table ?? there.name) },
          }
      }
    },
  },
]

/** Pairs each moved sequence with the sequence of the same name on the target. */
function* pairs({ source, target }: Facts): Iterable<{ sequence: Sequence; there: Sequence; used: bigint | null }> {
  const byName = new Map(target.sequences.map((each) => [each.name, each]))
  for (const { sequence, used } of source.sequences) {
    const there = byName.get(sequence.name)
    if (there) yield { sequence, there, used }
  }
}

/** The ALTER SEQUENCE clauses that make the target's sequence count like the source's. */
function differences(here: Sequence, there: Sequence): string[] {
  const bounds = here.min !== there.min || here.max !== there.max
  return [
    here.increment !== there.increment && `INCREMENT BY ${here.increment}`,
    // The bounds matter only for a sequence that cycles, because it restarts there. Wider bounds on the target are
    // harmless otherwise.
    ((here.cycle && bounds) || here.increment > 0n !== there.increment > 0n) &&
      `MINVALUE ${here.min} MAXVALUE ${here.max}`,
    here.cycle !== there.cycle && (here.cycle ? 'CYCLE' : 'NO CYCLE'),
  ].filter((each) => each !== false)
}

function definitionHit({ settings, target }: Facts, here: Sequence, wanted: string[]): Hit {
  const name = `${settings.targetSchema}.${here.name}`
  const what = `the sequence ${name} on the target lacks the source's ${wanted.join(' ')}`
  // CockroachDB has no CYCLE.
  if (target.server.isCockroach && wanted.includes('CYCLE'))
    return {
      object: name,
      what: `${what}, and CockroachDB's sequences do not cycle`,
      names: {
        fix: 'Generate the numbers another way on both sides. Waive this only while the sequence is far from its end.',
      },
    }
  const sql = `ALTER SEQUENCE ${qualified(settings.targetSchema, here.name)} ${wanted.join(' ')}`
  return { object: name, what, names: { fix: `${sql}; -- on the target` }, apply: { side: 'target', sql } }
}
