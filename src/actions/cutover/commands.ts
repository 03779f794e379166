import { join } from 'node:path'
import { info, warning } from '@actions/core'
import type { Entry } from '../../ledger/ledger.ts'
import { type Database, ident } from '../../runtime/database.ts'
import { UserError } from '../../runtime/errors.ts'
import { seconds, workFolder } from '../../runtime/progress.ts'
import { addSecret, addSecretUrl } from '../../runtime/secrets.ts'
import { TIMING } from '../../runtime/timing.ts'
import { Child } from '../../tools/process.ts'
import { STREAM_APPLICATION } from '../../tools/replicator.ts'
import type { Cutover } from './spec.ts'

export interface Command {
  /** Program and arguments. Not run through a shell. */
  words: readonly string[]
  /**
   * Decides the name of the log file and the prefix of the command's own variables: `MOLT_SWITCH_…`,
   * `MOLT_SMOKE_TEST_…`.
   */
  name: 'switch' | 'smoke-test'
  env: Record<string, string>
  /** Milliseconds. */
  timeout: number
  /** What to do if the command fails, for the error message. */
  advice: string
}

/**
 * Runs a user's program to completion, with secrets masked in its output. Stops it when `signal` aborts or after
 * `timeout`.
 * @returns how long it took, in milliseconds
 * @throws ToolError unless it exits with 0 within `timeout`
 */
export async function runCommand(entry: Entry, command: Command, signal: AbortSignal): Promise<number> {
  const [program, ...args] = command.words as [string, ...string[]]
  const began = performance.now()
  const child = new Child({
    program,
    args,
    env: { ...own(command.name), ...facts(entry), ...command.env },
    logFile: join(workFolder(entry.id), `${command.name}.log`),
    onLine: (line) => info(line),
  })
  let late = false
  const timer = setTimeout(() => {
    late = !child.over
    void child.stop(TIMING.toolStop)
  }, command.timeout)
  const exit = await child.exitedOrStopped(signal)
  clearTimeout(timer)
  // A cancelled switch may have succeeded anyway.
  if (exit.code === 0 && !late) return Math.round(performance.now() - began)
  const why = late ? `It was stopped after ${seconds(command.timeout)} (\`${command.name}-timeout\`). ` : ''
  throw child.failure({ code: late ? 'command.timeout' : 'command.failed', advice: `${why}${command.advice}` })
}

/** The environment variables that only this command receives, not other child processes. */
function own(name: Command['name']): Record<string, string> {
  const prefix = `MOLT_${name.toUpperCase().replace('-', '_')}_`
  const given = Object.entries(process.env).filter(([key, value]) => key.startsWith(prefix) && value)
  for (const [, value] of given) addSecret(value as string)
  return Object.fromEntries(given) as Record<string, string>
}

/** Environment variables with facts from the ledger, for a script that serves several migrations. */
function facts({ id, phase, plan, facts }: Entry): Record<string, string> {
  return {
    MOLT_ACTIONS_MIGRATION: id,
    MOLT_ACTIONS_PHASE: phase,
    MOLT_ACTIONS_PLAN_HASH: plan.hash ?? '',
    MOLT_ACTIONS_SOURCE_SCHEMA: plan.sourceSchema,
    MOLT_ACTIONS_TARGET_SCHEMA: plan.targetSchema,
    MOLT_ACTIONS_SLOT: plan.slot,
    MOLT_ACTIONS_CURSOR: facts.cursor ?? '',
    MOLT_ACTIONS_APPROVED_BY: facts.approval?.by ?? '',
  }
}

/** The same URL, with transactions read-only by default. */
export function readOnlyUrl(url: string): string {
  const option = '-c default_transaction_read_only=on'
  const readOnly = /[?&]options=/.test(url)
    ? url.replace(/([?&]options=)([^&]*)/, (_, name, value) => `${name}${value}%20${encodeURIComponent(option)}`)
    : `${url}${url.includes('?') ? '&' : '?'}options=${encodeURIComponent(option)}`
  addSecretUrl(readOnly)
  return readOnly
}

/** The roles that do not exist, or whose sessions the migration role cannot end. */
async function unendable(source: Database, roles: readonly string[]): Promise<string[]> {
  const { rows } = await source.query(
    `SELECT name FROM unnest($1::text[]) AS name LEFT JOIN pg_catalog.pg_roles r ON r.rolname = name
      WHERE r.oid IS NULL OR NOT (
        (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
        OR NOT r.rolsuper AND (pg_catalog.pg_has_role(current_user, r.oid, 'USAGE')
                               OR pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE')))`,
    [roles],
  )
  return rows.map(({ name }) => name)
}

/**
 * Ends these roles' sessions in the source database, except those of this suite, so that pools reconnect to the target.
 * Only warns about sessions that it cannot end, because the migration is already committed.
 * @returns how many sessions were ended
 */
export async function endSessions(source: Database, roles: readonly string[]): Promise<number> {
  const { rows } = await source.query(
    `SELECT pg_catalog.pg_terminate_backend(pid) AS ended FROM pg_catalog.pg_stat_activity
      WHERE datname = current_database() AND backend_type = 'client backend' AND usename = ANY($1)
        AND pid <> pg_catalog.pg_backend_pid() AND application_name NOT IN ('molt-actions', $2)`,
    [roles, STREAM_APPLICATION],
  )
  const ended = rows.filter((row) => row.ended).length
  if (ended < rows.length) warning(`${rows.length - ended} sessions on the source could not be ended`)
  return ended
}

/** @throws UserError when `end-sessions` names roles whose sessions cannot be ended */
export async function requireEndable(source: Database, roles: readonly string[] | undefined): Promise<void> {
  const refused = roles?.length ? await unendable(source, roles) : []
  if (refused.length)
    throw new UserError(
      'cutover.end-sessions',
      `input \`end-sessions\`: the sessions of ${refused.join(', ')} cannot be ended: the role does not exist, or the migration role lacks the privilege. Correct the name, or run \`GRANT pg_signal_backend TO ${ident(source.user ?? '')};\` on the source. Nothing was paused`,
    )
}

/**
 * Runs the smoke test. It runs before writes are paused, so that a broken script pauses nothing, and again after the
 * drain.
 */
export function smokeTest({ inputs }: Cutover, entry: Entry, signal: AbortSignal): Promise<number> {
  return runCommand(
    entry,
    {
      words: inputs.smokeTest ?? [],
      name: 'smoke-test',
      timeout: inputs.smokeTestTimeout,
      env: { MOLT_SMOKE_TEST_TARGET: readOnlyUrl(inputs.target) },
      advice: 'Nothing was committed. Fix what the smoke test found, then run `cutover` again.',
    },
    signal,
  )
}
