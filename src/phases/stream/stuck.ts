import type { ErrorCode } from '../../runtime/codes.ts'
import { type ToolError, VerdictError } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { plural, someOf } from '../../runtime/progress.ts'
import { readerText, type SlotFacts } from '../../source/slot.ts'
import { type Diagnosis, translate } from '../../tools/diagnoses.ts'
import type { Replicator } from '../../tools/replicator.ts'

/** Describes the state of a stream that is stuck. */
export interface StuckFacts {
  sourceUrl: string
  targetUrl: string
  publication: string
  publicationGone: boolean
  /** The replicator's last error, verbatim; then its diagnosis. */
  said: string | undefined
  diagnosis: Diagnosis | undefined
  retries: number
  /** Who holds the lock on the target that the stream is waiting for, as text. */
  blocked: string | null
  slot: SlotFacts | undefined
  /** Triggers of the planned tables on the target, as `table.trigger`. */
  triggers: readonly string[]
  /** Schema changes seen while streaming, or if none, the differences between the two sides' tables. */
  schemaChanges: readonly string[]
}

/** Returns the error for a stuck stream: what was seen, the cause, and the replicator's last output. */
export function stuckError(seen: string, facts: StuckFacts): VerdictError {
  const parts = [`the stream is stuck: ${seen}`, cause(facts), lastWords(facts)]
  notify('stream-stuck', { what: seen })
  return new VerdictError(stuckCode(facts), parts.filter((part) => part !== undefined).join('; '))
}

function cause(facts: StuckFacts): string | undefined {
  const { diagnosis, blocked, publication, publicationGone } = facts
  if (diagnosis) return `because ${diagnosis.why}${diagnosisDetail(diagnosis, facts)}`
  if (blocked) return `because its session on the target is waiting for a lock held by ${blocked}`
  return publicationGone ? `because the publication ${publication} is gone` : undefined
}

function lastWords({ said, retries, slot }: StuckFacts): string {
  const retried = retries ? `retried ${plural(retries, 'time')} and ` : ''
  if (said) return `the replicator ${retried}last said: ${said.slice(0, 400)}`
  return `the replicator has printed no error${slot?.active === false ? ', and the slot has no reader' : ''}`
}

function stuckCode({ diagnosis, blocked, publicationGone }: StuckFacts): ErrorCode {
  if (diagnosis) return `stream.stuck.${diagnosis.kind}`
  if (blocked) return 'stream.stuck.lock'
  return publicationGone ? 'stream.stuck.publication' : 'stream.stuck.other'
}

/** Returns the error for a replicator that ended and will not be restarted. */
export function deathError(replicator: Replicator, facts: StuckFacts): ToolError {
  const said = lastError(replicator)
  const diagnosis = translate(said)
  if (!diagnosis || diagnosis.kind === 'other')
    return replicator.child.failure({ said, advice: 'See its log in the evidence folder.' })
  return replicator.child.failure({
    code: `stream.stuck.${diagnosis.kind}`,
    said,
    advice: `Cause: ${diagnosis.why}${diagnosisDetail(diagnosis, facts)}.`,
  })
}

/** The last error that the replicator logged; if there is none, its last line. */
export function lastError({ lastDiagnosis, child }: Replicator): string {
  return lastDiagnosis ?? child.lastWords
}

/** Adds details from the two databases to a diagnosis. */
function diagnosisDetail({ kind }: Diagnosis, facts: StuckFacts): string {
  const { said, slot, schemaChanges, triggers } = facts
  if (kind === 'connection' || kind === 'connection-limit') return sideText(said, facts)
  if (kind === 'trigger') return triggers.length ? ` (triggers: ${someOf(triggers, 5)})` : ''
  if (kind === 'slot-busy') return slot?.reader ? `: ${readerText(slot.reader)}` : ''
  if (kind !== 'column' && kind !== 'identity' && kind !== 'missing-table') return ''
  return schemaChanges.length ? ` (${schemaChanges.slice(0, 3).join('; ')})` : ''
}

/** Names the side whose address appears in the replicator's output; empty if both or neither do. */
export function sideText(said: string | undefined, urls: { sourceUrl: string; targetUrl: string }): string {
  const named = (url: string) => {
    if (!URL.canParse(url)) return false
    const { hostname, port } = new URL(url)
    return hostname !== '' && said?.includes(`${hostname}:${port || 5432}`)
  }
  const [source, target] = [named(urls.sourceUrl), named(urls.targetUrl)]
  if (source === target) return ''
  return source ? ': the source' : ': the target'
}
