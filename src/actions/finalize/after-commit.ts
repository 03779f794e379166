import { error, info, warning } from '@actions/core'
import { COMMITTED, DECIDED, type Entry, STREAMING } from '../../ledger/ledger.ts'
import { compareAfterCommit } from '../../phases/after-commit/compare.ts'
import {
  type AfterCommit,
  afterCommitProblems,
  afterCommitText,
  differenceText,
  isCompared,
  keepAfterCommit,
  lastAfterCommit,
} from '../../phases/after-commit/result.ts'
import { withDatabase } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { requireMigration, withBoth } from '../shared.ts'
import type { Finalize } from './spec.ts'

/**
 * Compares all rows as they were at the commit, unless an earlier run has found them equal. Records the result in the
 * ledger and reports it at once, because the longer a rollback waits, the more writes it loses. {@link requireCompared}
 * fails the step only after all other work is done, because the application needs that work if it stays on the target.
 * @returns undefined before the commit
 */
export async function compareOnce(context: Finalize): Promise<AfterCommit | undefined> {
  const { inputs, signal } = context
  const { entry, known } = await withBoth(context, async (source, target) => {
    const entry = await requireMigration(source, target, inputs.migration, [...STREAMING, ...DECIDED])
    return { entry, known: await lastAfterCommit(target, entry) }
  })
  if (!COMMITTED.includes(entry.phase)) return undefined
  const result =
    known?.verdict === 'equal'
      ? known
      : await compareAfterCommit(entry, { sourceUrl: inputs.source, targetUrl: inputs.target, signal })
  if (result !== known) await keep(context, entry, result)
  context.output('compared', result.verdict)
  context.output('differences', JSON.stringify(result.differences))
  tell(result)
  return result
}

async function keep({ inputs }: Finalize, entry: Entry, result: AfterCommit): Promise<void> {
  await withDatabase(inputs.target, 'target', (target) => keepAfterCommit(target, entry, result))
}

function tell(result: AfterCommit): void {
  if (result.verdict !== 'different') {
    const say = result.verdict === 'equal' ? info : warning
    say(afterCommitText(result))
    return
  }
  const what = result.differences.map(differenceText).join('; ')
  error(`Rows differed between the source and the target at the commit: ${what}. ${WAY_BACK}`)
  notify('rows-differ', { what })
}

const WAY_BACK =
  'To return to the source, stop the application and run `rollback`. It loses every write to the target since the commit, and requires that `accept-data-loss` names each table with such writes. To stay, restore these rows on the target by hand from the fenced source, and set `waive: compare` in `cleanup`.'

/** @throws VerdictError unless all rows were found equal. Columns that only `molt verify` can compare cause a warning */
export function requireCompared(result: AfterCommit | undefined, { id, phase }: Pick<Entry, 'id' | 'phase'>): void {
  if (!result && COMMITTED.includes(phase))
    throw new VerdictError(
      'ledger.moved',
      `another run committed migration \`${id}\` while this one started, so its rows are not compared yet. Run \`finalize\` again`,
    )
  if (!result) return
  if (result.verdict === 'different')
    refuse('verify.after-commit', 'rows differed at the commit', afterCommitProblems(result), WAY_BACK)
  if (!isCompared(result))
    refuse(
      'verify.after-commit-inconclusive',
      'the comparison of rows at the commit is incomplete',
      afterCommitProblems(result),
      'Fix these, then run `finalize` again while the target still keeps its history since the commit (`gc.ttlseconds`). To accept the gaps, set `waive: compare` in `cleanup`.',
    )
}
