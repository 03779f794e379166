import { info } from '@actions/core'
import { cancelImports } from '../../destination/jobs.ts'
import { readTarget } from '../../destination/server.ts'
import type { Entry, Exported } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import { type Database, ident } from '../../runtime/database.ts'
import { UserError } from '../../runtime/errors.ts'
import { readPublication } from '../../source/publication.ts'
import { dropSlot, readSlot } from '../../source/slot.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'

/**
 * A load to go on with: MOLT's id of it, the LSN at which its slot begins, and the rows that it had read. MOLT passes
 * over every table of which it has noted no failure, loaded or not, so these rows are the only proof of the whole.
 */
export interface Resumed {
  fetchId: string
  cursor: string
  exported: Exported
}

/**
 * Settles what an earlier load has left: a slot that fills the source's disk, a publication, import jobs that hold
 * tables offline.
 * @returns the load to go on with, or undefined for a load from the beginning
 * @throws UserError when there is something, and `policy` does not say what to do with it
 */
export async function settleInterrupted(
  source: Database,
  target: Database,
  entry: Entry,
  request: { policy: 'fail' | 'resume' | 'restart'; mode: FetchMode; fetchId?: string },
): Promise<Resumed | undefined> {
  const { plan } = entry
  const slot = await readSlot(source, plan.slot)
  const begun = entry.facts.load ?? undefined
  if (!slot) {
    if (begun && request.policy === 'resume')
      throw new UserError(
        'slot.missing',
        `the slot ${plan.slot} of the load that was begun is gone, and with it the changes since; say \`on-interrupted: restart\``,
      )
    await endImports(target, plan)
    return undefined
  }
  if (slot.active)
    throw new UserError(
      'slot.in-use',
      `the slot ${plan.slot} is read by PID ${slot.activePid}: a load or a replicator is running; end it first`,
    )
  const canGoOn = request.mode !== 'direct-copy' && begun?.exported !== undefined
  if (request.policy === 'fail')
    throw new UserError('load.interrupted', leftBehind(plan, slot.walBytes, canGoOn ? begun?.fetchId : undefined))
  await endImports(target, plan)
  if (request.policy === 'resume') return resumed(entry, slot.confirmedFlushLsn, request)
  await dropLoad(source, plan)
  info(`a load was begun before and did not end; its slot ${plan.slot} is dropped, and everything is loaded again`)
  return undefined
}

function leftBehind(plan: Plan, walBytes: number, fetchId: string | undefined): string {
  const resume = fetchId
    ? `Say \`on-interrupted: resume\` to go on with it (fetch id ${fetchId}), or`
    : 'It cannot be gone on with; say'
  return `the slot ${plan.slot} exists already and keeps ${Math.round(walBytes / 2 ** 20)} MiB of WAL: a load was begun before and did not end. ${resume} \`on-interrupted: restart\` to drop the slot and load everything again`
}

function resumed(entry: Entry, slotAt: string | null, request: { mode: FetchMode; fetchId?: string }): Resumed {
  const begun = entry.facts.load
  if (request.mode === 'direct-copy')
    throw new UserError(
      'load.cannot-resume',
      'a direct copy cannot be continued: nothing of it is kept between source and target; say `on-interrupted: restart`',
    )
  const fetchId = request.fetchId ?? begun?.fetchId
  if (!begun?.exported || !fetchId)
    throw new UserError(
      'load.cannot-resume',
      'the load that was begun cannot be gone on with: it died before every table was read to its end, and MOLT would pass over the others without a word; say `on-interrupted: restart`',
    )
  if (slotAt !== begun.cursor)
    throw new UserError(
      'slot.moved',
      `the slot ${entry.plan.slot} stands at ${slotAt}, but the load was begun at ${begun.cursor}: it is another one, or has been read; say \`on-interrupted: restart\``,
    )
  return { fetchId, cursor: begun.cursor, exported: begun.exported }
}

/** Takes away slot and publication of a load that is not gone on with; the publication only when it is this plan's. */
export async function dropLoad(source: Database, plan: Plan): Promise<void> {
  await dropSlot(source, plan.slot)
  if (!(await foreignTables(source, plan)).length)
    await source.query(`DROP PUBLICATION IF EXISTS ${ident(plan.publication)}`)
}

/** Tables in the publication with MOLT's fixed name that this plan knows nothing of, as `schema.table`. */
export async function foreignTables(source: Database, plan: Plan): Promise<string[]> {
  const publication = await readPublication(source, plan.publication)
  const ours = new Set(plan.tables.map((table) => `${plan.sourceSchema}.${table}`))
  return publication?.tables.filter((table) => !ours.has(table) && !table.startsWith('molt_actions.')) ?? []
}

/** Import jobs of a load that has ended hold their tables offline on CockroachDB. */
export async function endImports(target: Database, plan: Plan): Promise<void> {
  if (!(await readTarget(target)).isCockroach) return
  for (const { id, table } of await cancelImports(target, plan.targetSchema, plan.tables))
    info(`import job ${id} of an earlier load into ${table} is cancelled`)
}
