import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'
import { connect, type Database, withDatabase } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { defaulted, optional, required } from '../runtime/spec.ts'
import { connectionUrl, pattern, text } from '../runtime/types.ts'
import { readServer } from '../source/catalog.ts'
import { readHeartbeatOwner } from '../source/heartbeat.ts'
import type { Entry } from '../target/ledger.ts'

export const config = {
  config: optional(
    text,
    'YAML file with settings: one section per action, with the same names as its inputs, and `common` for all. An input wins over the file.',
  ),
}

/** Inputs of every action that works on a migration. */
export const migration = {
  source: required(
    connectionUrl,
    'PostgreSQL to move, as the migration user. The primary itself: not a replica, pooler or balancer.',
  ),
  target: required(connectionUrl, 'CockroachDB to move to.'),
  migration: defaulted(
    pattern(/^[a-z][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens, 40 at most'),
    'main',
    'Name of this migration in the ledger.',
  ),
  ...config,
}

/** A folder for logs and evidence of this job, private to its user. */
export function workFolder(migrationId: string): string {
  const folder = join(process.env.RUNNER_TEMP ?? '.', 'molt-actions', migrationId)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  return folder
}

/** Opens both sides and closes them whatever happens. */
export async function withBoth<T>(
  inputs: { source: string; target: string },
  work: (source: Database, target: Database) => Promise<T>,
): Promise<T> {
  return withDatabase(inputs.source, 'source', async (source) => {
    const target = await connect(inputs.target, 'target')
    try {
      return await work(source, target)
    } finally {
      await target.end().catch(() => {})
    }
  })
}

/** @throws VerdictError unless this is the very database that `prepare` saw: not a clone, a replica or another one */
export async function requireSameSource(source: Database, entry: Entry): Promise<void> {
  const planned = entry.facts.source
  const [server, owner] = [await readServer(source), await readHeartbeatOwner(source)]
  const same =
    planned?.systemIdentifier === server.systemIdentifier &&
    planned.databaseOid === server.databaseOid &&
    planned.sourceId === owner?.sourceId
  if (same && !server.inRecovery) return
  throw new VerdictError(
    `the source is not the database that \`prepare\` saw for migration \`${entry.id}\`${server.inRecovery ? ' (it is a replica now)' : ''}; check the URL, or prepare a new migration`,
  )
}

/** Calls `line` at once and then every `everyMs`, and logs what it returns, until stopped. */
export function progress(everyMs: number, line: () => string): { stop(): void } {
  const stopper = new AbortController()
  void (async () => {
    while (!stopper.signal.aborted) {
      await sleep(everyMs, undefined, { signal: stopper.signal }).catch(() => {})
      if (!stopper.signal.aborted) info(line())
    }
  })()
  return { stop: () => stopper.abort() }
}

/** The list of what went wrong, as one error with a line each. */
export function refuse(what: string, problems: readonly string[], next: string): never {
  const shown = problems.slice(0, 20).map((problem) => `  - ${problem}`)
  if (problems.length > shown.length) shown.push(`  - and ${problems.length - shown.length} more`)
  throw new VerdictError(`${what}:\n${shown.join('\n')}\n${next}`)
}

export function number(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}
