import { warning } from '@actions/core'
import { runUrl } from './github.ts'
import { redact } from './secrets.ts'
import { TIMING } from './timing.ts'

/** Events that are sent to `notify-url`: the value of `event`, and the text of the message. */
const EVENTS = {
  'approval-wanted': 'the cutover is waiting for approval',
  declined: 'the approval was declined or has expired',
  'stream-stuck': 'the stream is stuck',
  'wal-half': 'the WAL that the slot retains exceeds half of `wal-budget`',
  'fence-up': 'the fence is armed: writes to the source are refused',
  committed: 'committed: the target takes over',
  'rows-differ': 'rows differ between the source and the target as of the commit',
  'rolled-back': 'rolled back: the source accepts writes again',
  degraded: 'the application is degraded on the target',
} as const
export type NotifyEvent = keyof typeof EVENTS

/** A message. All fields are top-level strings, so that chat programs can use them as variables. */
interface Message extends Record<string, string> {
  version: '1'
  event: NotifyEvent
  migration: string
  /** The message as one line of text. */
  text: string
  /** By the runner's clock, ISO 8601. */
  at: string
  /** Link to the run; empty outside GitHub. */
  run: string
}

let target: { url: string; migration: string; timeout: number } | undefined
const told = new Set<NotifyEvent>()
const pending = new Set<Promise<void>>()

/** Sets the URL to which {@link notify} sends; if it is undefined, nothing is sent. */
export function notifyTo(url: string | undefined, migration: string, timeout = TIMING.notifyTimeout): void {
  target = url ? { url, migration, timeout } : undefined
  told.clear()
}

/**
 * Sends an event, once per process. Returns immediately and never throws, because a write pause must not wait for a
 * chat program. {@link notified} waits for pending messages.
 * @param more `what` is appended to the text; all other entries become fields of the message. Must not contain row
 * values or secrets
 */
export function notify(event: NotifyEvent, more: { what?: string } & Record<string, string> = {}): void {
  if (!target || told.has(event)) return
  told.add(event)
  const { url, migration, timeout } = target
  const { what, ...fields } = more
  const message: Message = {
    version: '1',
    event,
    migration,
    text: redact(`Migration ${migration}: ${EVENTS[event]}${what ? `. ${what}` : ''}`),
    at: new Date().toISOString(),
    run: runUrl(),
    ...fields,
  }
  const sent = send(url, message, timeout).catch((error) => {
    // Leaves out the URL and the response, because both can contain the webhook's token.
    warning(
      `sending \`${event}\` to \`notify-url\` failed: ${error instanceof Refusal ? error.message : reason(error)}`,
    )
  })
  pending.add(sent)
  void sent.then(() => pending.delete(sent))
}

/** Waits until every message has been sent or has failed, for at most 5 s. */
export async function notified(): Promise<void> {
  await Promise.all(pending)
}

class Refusal extends Error {}

async function send(url: string, message: Message, timeout: number): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'user-agent': 'molt-actions' },
    body: JSON.stringify(message),
    redirect: 'error',
    signal: AbortSignal.timeout(timeout),
  })
  await response.body?.cancel()
  if (!response.ok) throw new Refusal(`the server returned ${response.status}`)
}

function reason(error: unknown): string {
  const { name, cause } = error as { name?: string; cause?: { code?: string } }
  if (name === 'TimeoutError') return 'the server did not respond in time'
  return `the server cannot be reached (${cause?.code ?? name ?? 'unknown'})`
}
