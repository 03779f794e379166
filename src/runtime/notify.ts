import { warning } from '@actions/core'
import { runUrl } from './github.ts'
import { redact } from './secrets.ts'
import { TIMING } from './timing.ts'

/** Events that people are notified of: value of `event` in a message. */
const EVENTS = {
  'approval-wanted': 'the cutover waits for approval',
  declined: 'the approval was declined or has expired',
  'stream-stuck': 'the stream is stuck',
  'wal-half': 'the slot keeps more than half of `wal-budget` on the source',
  'fence-up': 'the fence is up: writes to the source are refused',
  committed: 'committed: the target takes over',
  'rows-differ': 'rows differ between the source and the target as of the commit',
  'rolled-back': 'rolled back: the source takes writes again',
  degraded: 'the application is degraded on the target',
} as const
export type NotifyEvent = keyof typeof EVENTS

/** A message: flat, with text values only, so that chat programs can use its fields as variables. */
interface Message extends Record<string, string> {
  version: '1'
  event: NotifyEvent
  migration: string
  /** One line for people. */
  text: string
  /** By the runner's clock, ISO 8601. */
  at: string
  /** A link; empty outside GitHub. */
  run: string
}

let target: { url: string; migration: string; timeout: number } | undefined
const told = new Set<NotifyEvent>()
const pending = new Set<Promise<void>>()

/** Sends later {@link notify} events to `url`; without one nothing is sent. */
export function notifyTo(url: string | undefined, migration: string, timeout = TIMING.notifyTimeout): void {
  target = url ? { url, migration, timeout } : undefined
  told.clear()
}

/**
 * Notifies people of an event, once per process. Returns at once and never fails, because a write pause must not wait for a
 * chat program. {@link notified} waits for pending messages.
 * @param more details for the text and for a program; no row value, no secret
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
    // Neither the address nor the answer, because both can contain the webhook's token.
    warning(
      `sending \`${event}\` to \`notify-url\` failed: ${error instanceof Refusal ? error.message : reason(error)}`,
    )
  })
  pending.add(sent)
  void sent.then(() => pending.delete(sent))
}

/** Waits until everything has been sent or given up, for at most 5 s. */
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
  if (!response.ok) throw new Refusal(`it answered ${response.status}`)
}

function reason(error: unknown): string {
  const { name, cause } = error as { name?: string; cause?: { code?: string } }
  if (name === 'TimeoutError') return 'it did not answer in time'
  return `it cannot be reached (${cause?.code ?? name ?? 'unknown'})`
}
