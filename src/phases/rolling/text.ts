import type { ProofState } from '../../ledger/proof.ts'
import { number, plural } from '../../runtime/progress.ts'

/**
 * Summarizes the proof recorded in the ledger, such as `every row of 11 tables proved as of 02:11:07 UTC, 212 keys open,
 * 0 lost`.
 */
export function proofText({ tables, others, waiting = 0, open, lost = 0, at }: ProofState): string {
  const all = Object.values(tables)
  const proved = all.flatMap((table) => table.proved ?? [])
  const keys = `${plural(open, 'key')} open, ${number(lost)} lost`
  const full = Object.keys(others).length
  const rest = full ? `; ${plural(full, 'table is', 'tables are')} compared in full in the write pause` : ''
  if (waiting || proved.length < all.length || !proved.length) {
    const rows = all.reduce((sum, table) => sum + (table.proved?.rows ?? table.pass?.rows ?? 0), 0)
    return `${plural(proved.length, 'table')} of ${number(all.length + waiting)} proved while streaming, ${plural(rows, 'row')} compared, ${keys}${rest}`
  }
  const oldest = proved.map(({ began }) => began).sort()[0] as string
  return `every row of ${plural(proved.length, 'table')} proved as of ${clock(at)}, ${keys}; the oldest comparison is from ${clock(oldest)}${rest}`
}

function clock(iso: string): string {
  return `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`
}
