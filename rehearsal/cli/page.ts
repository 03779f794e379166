// The dossier of a rehearsal: the ledger's final state, and the rehearsal's own measurements.
import { setTimeout as sleep } from 'node:timers/promises'
import { Marked } from 'marked'
import markedAlert from 'marked-alert'
import { type DossierFacts, type DossierStep, dossierPage } from '../../src/report/dossier/page.ts'
import type { Account } from './account.ts'

/** Sampling interval, short enough to show a pause of one second. */
const SAMPLE_MS = 250

/** Start times of the steps, and the application's transaction counts. Times are milliseconds since 1970. */
export class Timeline {
  readonly steps: { label: string; at: number }[] = []
  /** `total`: transactions committed by the application so far. */
  readonly samples: { at: number; total: number }[] = []

  step(label: string): void {
    this.steps.push({ label, at: Date.now() })
  }

  /** Samples a counter of transactions until `signal` aborts. */
  async follow(total: () => number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.samples.push({ at: Date.now(), total: total() })
      await sleep(SAMPLE_MS, undefined, { signal }).catch(() => {})
    }
  }
}

/**
 * @param found undefined if neither side was reached
 * @param summary the job's summary, with names already escaped
 */
export function rehearsalPage(
  account: Account,
  timeline: Timeline,
  found: DossierFacts | undefined,
  summary: string,
): string {
  const markdown = new Marked(markedAlert(), { gfm: true, async: false })
  const written = new Date()
  const facts: DossierFacts = found ?? {
    migration: 'rehearsal',
    phase: undefined,
    since: undefined,
    plan: undefined,
    source: undefined,
    target: undefined,
    likeServer: false,
    steps: [],
    remaining: undefined,
    toDecide: [],
    next: undefined,
    written,
  }
  const more = [...applicationSteps(account, timeline, written), ...failureSteps(account, facts, written)]
  return dossierPage({
    ...facts,
    steps: [...facts.steps, ...more],
    next: { command: account.next },
    appendix: { title: "The job's summary", body: markdown.parse(summary) as string },
  })
}

function applicationSteps(account: Account, { samples, steps }: Timeline, at: Date): DossierStep[] {
  const application = { samples, marks: steps, pauseMs: account.applicationPauseMs }
  return [
    ...(samples.length ? [{ action: 'application', at, body: application }] : []),
    ...(account.masking ? [{ action: 'masking', at, body: { ...account.masking } }] : []),
  ]
}

/** Adds a step for a failure that happened before the ledger existed and so was not recorded there. */
function failureSteps({ verdict, code, reason }: Account, { steps }: DossierFacts, at: Date): DossierStep[] {
  if (verdict === 'go' || steps.some(({ action }) => action === 'error')) return []
  const [action = 'rehearse', ...message] = reason.split(': ')
  return [{ action: 'error', at, body: { action, code: code ?? 'unknown', message: message.join(': ') } }]
}
