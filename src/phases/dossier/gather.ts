import { join } from 'node:path'
import { warning } from '@actions/core'
import { readTarget } from '../../destination/server.ts'
import { COMMITTED, DEFINITIONS, type Entry, readEntryIfAny, readSteps, STREAMING } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import type { DossierFacts, DossierSide, DossierStep } from '../../report/dossier/page.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { messageOf } from '../../runtime/errors.ts'
import { workFolder } from '../../runtime/progress.ts'
import { hostOf } from '../../runtime/url.ts'
import { readServer } from '../../source/server.ts'
import { builtLater } from '../verify/built-later.ts'
import { runVerify } from '../verify/verify.ts'

interface Where {
  source?: string
  target: string
  migration: string
  signal: AbortSignal
}

/**
 * Gathers everything that the ledger has recorded about a migration, even after a cleanup, and how the two sides differ
 * now.
 * @returns facts with an empty `steps` if there is no ledger
 */
export async function gatherDossier(where: Where): Promise<DossierFacts> {
  const { target: targetUrl, source: sourceUrl, migration, signal } = where
  return withDatabase(
    targetUrl,
    'target',
    async (target) => {
      const entry = await readEntryIfAny(target, migration)
      const steps: DossierStep[] = await readSteps(target, migration)
      const server = await readTarget(target)
      const from = sourceUrl ? await lookAtSource(sourceUrl, target, entry, where) : undefined
      return {
        migration,
        phase: entry?.phase,
        since: entry?.updatedAt,
        plan: entry?.plan ?? plannedIn(steps),
        source: from?.side,
        target: {
          host: hostOf(targetUrl),
          database: server.database,
          version: server.version.split(' (')[0] as string,
        },
        likeServer: server.isLikeServer,
        steps,
        ...(from?.compared ?? comparedIn(steps)),
        next: undefined,
        written: new Date(),
      }
    },
    signal,
  )
}

/** Reads the source. Only warns of a failure, because the ledger has most of the facts. */
async function lookAtSource(
  url: string,
  target: Database,
  entry: Entry | undefined,
  where: Where,
): Promise<{ side: DossierSide; compared: Compared | undefined } | undefined> {
  try {
    return await withDatabase(
      url,
      'source',
      async (source) => {
        const { version, database } = await readServer(source)
        const side = { host: hostOf(url), database, version: `PostgreSQL ${Math.floor(version / 10_000)}` }
        const comparable = entry && [...STREAMING, ...COMMITTED].includes(entry.phase)
        return { side, compared: comparable ? await compareNow(source, target, entry, where) : undefined }
      },
      where.signal,
    )
  } catch (error) {
    warning(`The dossier has no facts from the source: ${messageOf(error)}`)
    return undefined
  }
}

async function compareNow(source: Database, target: Database, entry: Entry, where: Where): Promise<Compared> {
  const report = await runVerify(source, target, {
    sourceUrl: where.source as string,
    targetUrl: where.target,
    plan: entry.plan,
    level: 'tables',
    ...(await builtLater(target, entry)),
    structure: 'require',
    logFile: join(workFolder(where.migration), 'report-verify.log'),
    signal: where.signal,
  })
  return { remaining: report.problems, toDecide: report.decisions }
}

/** The plan from the last `prepare`, for a migration that is no longer in the ledger. */
function plannedIn(steps: readonly DossierStep[]): Plan | undefined {
  return (steps.findLast(({ action }) => action === 'prepare')?.body as { plan?: Plan } | undefined)?.plan
}

/** The result of the last step that compared the definitions. */
function comparedIn(steps: readonly DossierStep[]): Compared {
  const body = steps.findLast(({ action }) => action === DEFINITIONS)?.body as Partial<VerifyReport> | undefined
  return { remaining: body?.problems, toDecide: body?.decisions ?? [] }
}

type Compared = Pick<DossierFacts, 'remaining' | 'toDecide'>
