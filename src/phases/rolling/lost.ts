import { VerdictError } from '../../runtime/errors.ts'
import { number, plural } from '../../runtime/progress.ts'
import type { Judged } from './round.ts'

const NEXT = 'Find the cause, run `abort`, then prepare and load again'
const STREAMING =
  'The source has not changed these rows since, and the stream is past their last change, so this is not lag. Do not cut over'
const DRAINED = 'The drain is proved, so these rows are lost. Nothing was committed'

/** Returns the error for lost rows. It names only tables and counts, because keys are customer data. */
export function lostRows(lost: readonly Judged[], drained: boolean): VerdictError {
  const counts = new Map<string, Record<Judged['kind'], number>>()
  for (const { key, kind } of lost) {
    const of = counts.get(key.table) ?? { missing: 0, mismatch: 0, extraneous: 0 }
    of[kind]++
    counts.set(key.table, of)
  }
  const texts = [...counts].map(([table, { missing, mismatch, extraneous }]) => {
    const parts = [
      missing && `${number(missing)} missing`,
      mismatch && `${number(mismatch)} different`,
      extraneous && `${number(extraneous)} extraneous`,
    ]
    return `${table}: ${parts.filter(Boolean).join(', ')}`
  })
  return new VerdictError(
    drained ? 'verify.rows-lost' : 'verify.differences',
    `source and target differ in at least ${plural(lost.length, 'row')} (${texts.join('; ')}). ${drained ? DRAINED : STREAMING}. ${NEXT}`,
  )
}
