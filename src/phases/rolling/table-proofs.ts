import type { ProofState, TableProof } from '../../ledger/proof.ts'
import { byName, own } from '../../model/records.ts'
import { writtenOtherwise } from '../verify/row-digests.ts'
import { DirtyKeys } from './dirty-keys.ts'
import { TablePass } from './pass.ts'
import { oddOf } from './rows.ts'
import type { Provable, ProvableTable } from './tables.ts'

/** Maximum number of keys held in memory; they take at most 200 MiB. */
export const BUDGET = 1_000_000

/** Tracks which tables are proved, and which of their keys have changed since. */
export class TableProofs {
  /** Tables that can be proved while they are streamed. */
  readonly tables = new Map<string, ProvableTable>()
  /** Table → why it must be compared in full. */
  readonly others = new Map<string, string>()
  /** Table → start and number of rows of its last complete pass. */
  readonly proved = new Map<string, { began: string; rows: number }>()
  readonly passes = new Map<string, TablePass>()
  /** Tables whose first pass is waiting for a baseline. */
  readonly waiting = new Set<string>()
  readonly dirty: DirtyKeys
  /** Table → why its rows cannot be compared by key. Rereading the catalog does not change this. */
  readonly #sticky = new Map<string, string>()

  /**
   * @param state the state saved by an earlier run; the log must have every change since then
   * @param budget maximum number of keys in memory
   */
  constructor({ tables, others }: Provable, state: ProofState | undefined, budget = BUDGET) {
    this.dirty = new DirtyKeys(budget, (table) => this.restart(table))
    for (const [name, reason] of Object.entries(others)) this.others.set(name, reason)
    for (const table of tables) this.#begin(table, own(state?.tables, table.name))
  }

  #begin(table: ProvableTable, before: TableProof | undefined): void {
    this.tables.set(table.name, table)
    if (before?.files !== table.files) {
      this.waiting.add(table.name)
      return
    }
    if (before.proved) this.proved.set(table.name, before.proved)
    if (before.pass || !before.proved) this.passes.set(table.name, new TablePass(table, before.pass))
  }

  /** Whether every provable table is proved, except for its open keys. */
  get complete(): boolean {
    return [...this.tables.keys()].every((name) => this.proved.has(name))
  }

  /** Discards what is known about a table. It starts over with a new baseline. */
  restart(name: string): void {
    this.dirty.drop(name)
    this.proved.delete(name)
    this.passes.delete(name)
    this.waiting.add(name)
  }

  exclude(name: string, reason: string): void {
    this.restart(name)
    this.waiting.delete(name)
    this.tables.delete(name)
    this.others.set(name, reason)
  }

  /** Excludes a table whose rows cannot be compared by key. */
  cannotTell(name: string, verdict: 'unreadable' | 'unknown'): void {
    const table = this.tables.get(name)
    if (!table) return
    const reason =
      verdict === 'unreadable'
        ? 'the two servers print its keys differently'
        : oddOf(table).map(writtenOtherwise).join('; ')
    this.#sticky.set(name, reason)
    this.exclude(name, reason)
  }

  /** Starts a pass over each of these tables. Call once their baseline holds. */
  beginPasses(names: Iterable<string>): void {
    for (const name of names) {
      const table = this.tables.get(name)
      if (table && !this.waiting.has(name)) this.passes.set(name, new TablePass(table))
    }
  }

  /** Records finished passes. Starts a new pass for tables compared longer ago than half of `age`, in milliseconds. */
  finishPasses(age: number | undefined): void {
    for (const [name, pass] of this.passes) {
      if (!pass.advance(this.dirty.suspectChunks(name))) continue
      this.proved.set(name, { began: pass.began, rows: pass.progress.rows })
      this.passes.delete(name)
    }
    if (!age) return
    for (const [name, { began }] of this.proved)
      if (!this.passes.has(name) && Date.now() - Date.parse(began) > age / 2) this.beginPasses([name])
  }

  /** Voids the proof of each table that DDL has changed on either side since the proof started. */
  refresh({ tables, others }: Provable): void {
    for (const [name, reason] of Object.entries(others))
      if (this.others.get(name) !== reason) this.exclude(name, reason)
    for (const table of tables) {
      if (this.#sticky.has(table.name) || this.#unchanged(table)) continue
      this.others.delete(table.name)
      this.tables.set(table.name, table)
      this.restart(table.name)
    }
  }

  /** Table → why it must be compared in full, according to the current catalogs. */
  unproved({ tables, others }: Provable): Map<string, string> {
    const found = new Map([...this.others, ...Object.entries(others)])
    for (const table of tables) {
      const { name } = table
      if (found.has(name)) continue
      if (!this.#unchanged(table)) found.set(name, 'it was changed or rewritten since it was compared')
      else if (!this.proved.has(name)) found.set(name, 'its first comparison has not finished')
    }
    return found
  }

  #unchanged(table: ProvableTable): boolean {
    return this.tables.get(table.name)?.files === table.files
  }

  get state(): Pick<ProofState, 'tables' | 'others' | 'waiting' | 'open'> {
    const tables = byName<TableProof>()
    for (const [name, { files }] of this.tables) {
      // No log has a row that a later pass found different, so the next run must finish that pass.
      const doubtful = this.dirty.suspectChunks(name).size > 0
      const [proved, pass] = [doubtful ? undefined : this.proved.get(name), this.passes.get(name)]
      if (proved || pass) tables[name] = { files, ...(proved && { proved }), ...(pass && { pass: pass.progress }) }
    }
    const waiting = this.tables.size - Object.keys(tables).length
    return { tables, others: Object.fromEntries(this.others), waiting, open: this.dirty.open }
  }
}
