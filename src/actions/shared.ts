import { exportVariable, warning } from '@actions/core'
import { type Entry, type Phase, requireEntry } from '../ledger/ledger.ts'
import type { Plan } from '../model/plan.ts'
import { type Database, ident, withDatabase } from '../runtime/database.ts'
import { InputError, refuse, VerdictError } from '../runtime/errors.ts'
import { defaulted, optional, required } from '../runtime/spec.ts'
import { argumentList, boolean, choice, connectionUrl, duration, pattern, text, webhookUrl } from '../runtime/types.ts'
import { tlsProblem } from '../runtime/url.ts'
import { heartbeatGone, readHeartbeatOwner } from '../source/heartbeat.ts'
import { readServer } from '../source/server.ts'
import { type SequenceSet, setSequences } from '../sql/sequences.ts'

export const config = {
  config: optional(
    text,
    'YAML file with settings. Each action has a section that uses the names of its inputs; the section `common` applies to all actions. An input overrides the file.',
  ),
}

function allowInsecure(sides: string) {
  return defaulted(
    boolean,
    'false',
    `Allows a ${sides} URL that does not enforce TLS (\`sslmode\` other than \`require\`, \`verify-ca\`, \`verify-full\`). Shown to the approver.`,
  )
}

/** Inputs for URLs without a password. */
export const passwords = {
  'password-command': optional(
    argumentList,
    'Program and arguments that print the password for a URL without one, such as a cloud IAM token. Runs without a shell, with `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` set. The password is cached for a minute: a connection opened later runs the command again. See docs/managed-postgresql.md.',
  ),
  'password-lasts': defaulted(
    choice('connection', 'job'),
    'connection',
    'How long the password from `password-command` is accepted. `connection`: possibly only for minutes, so steps that start molt or the replicator refuse it. `job`: longer than the job, so it is read once, and also passed to molt and the replicator.',
  ),
}

/** For actions that connect only to the target. */
export const insecureTarget = { 'allow-insecure': allowInsecure('`target`'), ...passwords }

/** Inputs of every action that works on a migration. */
export const migration = {
  source: required(
    connectionUrl,
    'PostgreSQL database to migrate, with the migration user. Must be the primary itself, not a replica, pooler or load balancer.',
  ),
  target: required(connectionUrl, 'CockroachDB cluster to migrate to.'),
  migration: defaulted(
    pattern(/^[a-z][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens, 40 at most'),
    'main',
    'Name of this migration in the ledger.',
  ),
  'allow-insecure': allowInsecure('`source` or `target`'),
  ...passwords,
  ...config,
}

/** For actions that send notifications. */
export const notifying = {
  'notify-url': optional(
    webhookUrl,
    'Webhook that gets one JSON message per event: approval wanted or declined, stream stuck, half of `wal-budget` used, fence up, commit, rollback, rows differ after the commit, application degraded. A failed notification never fails the step. See docs/observe.md.',
  ),
}

/** For actions that observe or end the rollback window. */
export const wayBack = {
  'rollback-window': defaulted(
    duration,
    '7d',
    'How long after a cutover the source stays fenced so that a rollback is possible.',
  ),
}

/** For actions that stream or watch. */
export const metrics = {
  'metrics-file': optional(
    text,
    'File for metrics as OpenMetrics text while the step runs: lag, rows per second, WAL kept, phase, verdict. Its folder must exist; end its name in `.prom` for a node exporter. See docs/observe.md.',
  ),
}

interface Connections {
  source: string
  target: string
  allowInsecure: boolean
}

/**
 * Requires TLS, because customers' rows and passwords travel over these connections.
 * @returns a sentence for each side that may be unencrypted
 * @throws InputError when a side does not enforce TLS and `allow-insecure` is not set
 */
export function requireTls(inputs: Partial<Connections>): string[] {
  const weak = (['source', 'target'] as const).flatMap((side) => {
    const url = inputs[side]
    const problem = url && tlsProblem(url)
    return problem ? [{ side, problem }] : []
  })
  if (!inputs.allowInsecure && weak[0])
    throw new InputError(
      'input.insecure-url',
      `input \`${weak[0].side}\`: ${weak[0].problem}, so rows and passwords would travel unencrypted. Use sslmode=verify-full, or set \`allow-insecure: true\``,
    )
  return weak.map(({ side, problem }) => `TLS is not enforced on the ${side} connection: ${problem}`)
}

/** Set for later steps of the job, so that only one annotation appears, however many connections they open. */
const WARNED = 'MOLT_ACTIONS_WARNED_INSECURE'

let warned = false

function warnInsecure(weak: readonly string[]): void {
  if (!weak.length || warned || process.env[WARNED]) return
  warning(`\`allow-insecure\`: ${weak.join('; ')}`)
  warned = true
  exportVariable(WARNED, 'true')
  // `exportVariable` has set it for this process too.
  delete process.env[WARNED]
}

/** Connects to both sides for `work`, and closes both connections afterwards. `signal` cancels connection attempts. */
export async function withBoth<T>(
  { inputs, signal }: { inputs: Connections; signal: AbortSignal },
  work: (source: Database, target: Database) => Promise<T>,
): Promise<T> {
  warnInsecure(requireTls(inputs))
  const { source, target } = inputs
  return withDatabase(
    source,
    'source',
    (from) => withDatabase(target, 'target', (to) => work(from, to), signal),
    signal,
  )
}

/**
 * Reads the ledger's entry of a migration, which must be in one of `phases`.
 * @throws UserError when there is no such entry, or it is in another phase; VerdictError when its plan was changed, or
 * when the source is not the one that `prepare` saw
 */
export async function requireMigration(
  source: Database,
  target: Database,
  id: string,
  phases: readonly Phase[],
): Promise<Entry> {
  const entry = await requireEntry(target, id, phases)
  await requireSameSource(source, entry)
  return entry
}

/**
 * Requires that this is the database that `prepare` saw, not a clone or a replica, and that all its rows are visible. A
 * row policy created later would hide the same rows from the load and from every comparison.
 * @throws VerdictError otherwise
 */
async function requireSameSource(source: Database, entry: Entry): Promise<void> {
  const planned = entry.facts.source
  const [server, owner] = [await readServer(source), await readHeartbeatOwner(source)]
  const sameDatabase =
    planned?.systemIdentifier === server.systemIdentifier && planned.databaseOid === server.databaseOid
  if (sameDatabase && !owner) throw heartbeatGone('source')
  const same = sameDatabase && planned.sourceId === owner?.sourceId
  if (same && !server.inRecovery) return requireAllRows(source, entry)
  throw new VerdictError(
    'source.other-database',
    `the source is not the database that \`prepare\` saw for migration \`${entry.id}\`${server.inRecovery ? ' (it is a replica now)' : ''}. Check the URL, or prepare a new migration`,
  )
}

async function requireAllRows(source: Database, { plan }: Entry): Promise<void> {
  const { rows } = await source.query(
    `SELECT c.relname AS name, current_user AS role FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND row_security_active(c.oid) ORDER BY 1`,
    [plan.sourceSchema, plan.tables],
  )
  if (rows.length)
    throw new VerdictError(
      'source.row-level-security',
      `row-level security hides rows of ${rows.map(({ name }) => name).join(', ')} from this role, so they would be neither moved nor compared. Run \`ALTER ROLE ${ident(rows[0].role)} BYPASSRLS;\` on the source. If it lacked BYPASSRLS during the load, load again`,
    )
}

/**
 * Sets the target's sequences past every value in use, as {@link setSequences} does.
 * @param note receives the sequences that were set and the problems, before any error is thrown
 * @throws VerdictError when a sequence of the target is not past every value in use
 */
export async function moveSequences(
  { source, target }: { source: Database; target: Database },
  plan: Plan,
  { margin, live = false }: { margin: number; live?: boolean },
  note: (set: readonly SequenceSet[], problems: readonly string[]) => Promise<void> = async () => {},
): Promise<SequenceSet[]> {
  const sides = [
    { db: source, schema: plan.sourceSchema },
    { db: target, schema: plan.targetSchema },
  ] as const
  const { set, problems } = await setSequences(...sides, plan.tables, BigInt(margin), live)
  await note(set, problems)
  if (problems.length)
    refuse(
      'sequences.not-set',
      'sequences could not be set',
      problems,
      'Fix these, then run the step again. Until then, an insert on the target could collide with an existing row.',
    )
  return set
}
