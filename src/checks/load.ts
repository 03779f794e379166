import { grantsText } from '../destination/write-access.ts'
import { number } from '../runtime/progress.ts'
import type { Check } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { expectedRelations, nameOf } from './rights.ts'
import { loadBytes, loadSeconds } from './server.ts'

const MIB = 2 ** 20

/**
 * Estimates the memory that `fetch` needs, in bytes: one batch per reader of each table loaded in parallel. Assumes
 * that the largest batches coincide, and that a decoded row takes twice its size on disk.
 */
export function fetchMemory(facts: Facts): { bytes: number; largest: string } {
  const { tableConcurrency, exportConcurrency, rowBatchSize } = facts.settings
  const tables = expectedRelations(facts)
    .filter((each) => each.rows > 0)
    .map((each) => ({ name: nameOf(each), batch: Math.min(rowBatchSize, each.rows) * (each.bytes / each.rows) }))
    .sort((a, b) => b.batch - a.batch)
    .slice(0, tableConcurrency)
  const bytes = tables.reduce((sum, each) => sum + each.batch * exportConcurrency * 2, 0)
  return { bytes, largest: tables[0]?.name ?? '' }
}

/** Estimates whether the load fits into memory and time, and each transaction into the replicator's memory. */
export const loadChecks: readonly Check[] = [
  {
    id: 'load.recreate',
    severity: 'block',
    waivable: false,
    title: 'Recreating the tables removes no privileges',
    protects:
      "`table-handling: drop-on-target-and-recreate` drops the tables, and with them other roles' privileges. MOLT does not restore those, so after the switch the application could not even read.",
    fix: 'Set `table-handling: truncate-if-exists`, which keeps the tables.',
    *find({ settings, target }) {
      const loads = [undefined, 'planned', 'prepared'].includes(settings.phase)
      if (settings.tableHandling !== 'drop-on-target-and-recreate' || !loads) return
      for (const role of new Set(target.otherRights.map((each) => each.role)))
        yield {
          object: role,
          what: grantsText(
            target.otherRights.filter((each) => each.role === role),
            'would lose',
          ),
        }
    },
  },
  {
    id: 'load.memory',
    severity: 'block',
    title: 'The load fits into the memory of this machine',
    protects:
      'molt fetch keeps row batches of several tables in memory at once. When memory runs out, the system kills it without a message.',
    fix: 'Set `row-batch-size` of the load to {batch} or less, or use a larger runner.',
    *find(facts) {
      const { bytes, largest } = fetchMemory(facts)
      if (bytes > facts.machine.memoryBytes)
        yield {
          object: largest,
          what: memoryWords(facts, bytes),
          names: { batch: smallerBatch(facts, bytes) },
        }
    },
  },
  {
    id: 'load.memory-tight',
    severity: 'warn',
    title: 'The load leaves memory to spare',
    protects: 'Rows vary in size, so an estimate above half the memory is a risk.',
    fix: 'Set `row-batch-size` of the load to {batch} or less.',
    *find(facts) {
      const { bytes, largest } = fetchMemory(facts)
      const { memoryBytes } = facts.machine
      if (bytes > memoryBytes / 2 && bytes <= memoryBytes)
        yield { object: largest, what: memoryWords(facts, bytes), names: { batch: smallerBatch(facts, bytes) } }
    },
  },
  {
    id: 'load.time',
    severity: 'warn',
    title: "The load fits into the job's time limit",
    protects: 'GitHub ends a job at its limit (6 h on hosted runners). The load is then lost, and the slot remains.',
    fix: 'Use a self-hosted runner with `timeout-minutes: {minutes}` or more, or move the largest tables in a separate migration.',
    *find(facts) {
      const seconds = loadSeconds(facts)
      if (seconds * 1000 > facts.settings.jobLimit)
        yield {
          object: 'source',
          what: `${size(loadBytes(facts))} at ${size(facts.settings.loadRate)}/s take about ${number(seconds / 60)} min; the job has ${number(facts.settings.jobLimit / 60_000)} min`,
          names: { minutes: Math.ceil((seconds * 1.5) / 60) },
        }
    },
  },
  {
    id: 'load.session',
    severity: 'warn',
    title: 'The load finishes before the cloud session expires',
    protects: 'OIDC credentials expire, by default after one hour. After that, uploads to the bucket fail.',
    fix: 'Request a longer session (`role-duration-seconds: {seconds}`), or give the runner’s own identity access to the bucket.',
    *find(facts) {
      const seconds = loadSeconds(facts)
      const { sessionLimit } = facts.settings
      if (sessionLimit !== undefined && seconds * 1000 > sessionLimit)
        yield {
          object: 'source',
          what: `the load takes about ${number(seconds / 60)} min; the session lasts ${number(sessionLimit / 60_000)} min`,
          names: { seconds: Math.ceil(seconds * 1.5) },
        }
    },
  },
  {
    id: 'load.transaction',
    severity: 'warn',
    title: 'The replicator can hold every transaction in memory',
    protects: 'The replicator keeps each transaction in memory until it has applied it.',
    fix: 'Until the cutover, write at most {rows} rows per transaction.',
    *find({ source: { statements } }) {
      if (statements && statements.largestRows > 100_000)
        yield {
          object: 'source',
          what: `a statement writes ${number(statements.largestRows)} rows at a time (pg_stat_statements, average per call)`,
          names: { rows: '100,000' },
        }
    },
  },
  {
    id: 'load.transaction-unknown',
    severity: 'info',
    title: 'The size of transactions is unknown',
    protects:
      'The replicator keeps each transaction in memory, and a nightly batch may be too large for it. Without statistics, `observe` has no baseline either.',
    fix: 'CREATE EXTENSION pg_stat_statements; -- or ask the application teams about batch writes',
    *find({ source: { statements } }) {
      if (!statements)
        yield {
          object: 'source',
          what: 'pg_stat_statements is not installed or not readable, so large batches go unnoticed',
        }
    },
  },
]

function memoryWords(facts: Facts, bytes: number): string {
  const { tableConcurrency, exportConcurrency, rowBatchSize } = facts.settings
  return `${number(rowBatchSize)} rows per batch × ${exportConcurrency} readers × ${tableConcurrency} tables take about ${size(bytes)}; this machine has ${size(facts.machine.memoryBytes)}`
}

function smallerBatch(facts: Facts, bytes: number): number {
  return Math.max(100, Math.floor((facts.settings.rowBatchSize * facts.machine.memoryBytes) / bytes / 4 / 100) * 100)
}

function size(bytes: number): string {
  return bytes >= 1024 * MIB ? `${(bytes / 1024 / MIB).toFixed(1)} GiB` : `${(bytes / MIB).toFixed(1)} MiB`
}
