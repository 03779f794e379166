import type { ErrorCode } from '../../runtime/codes.ts'
import { number } from '../../runtime/progress.ts'
import { explainWords } from '../../runtime/refusals.ts'
import { TIMING } from '../../runtime/timing.ts'
import { countChatter, parseEvent } from '../../tools/events.ts'
import { accountFor, emptyAccount, type FetchAccount, fetchedRows, strayTables } from '../../tools/molt-fetch.ts'
import { Child, httpText } from '../../tools/process.ts'
import { moltScrubber } from '../../tools/scrub.ts'
import { StallWatch } from '../stream/stall.ts'

/** Progress of a load. `rows` is the number of rows read from the source. */
export interface LoadProgress {
  tablesRead: number
  /** Undefined if molt does not report it: early builds do not for a direct copy. */
  tablesImported: number | undefined
  rows: number
}

export interface LoadOptions {
  args: readonly string[]
  schema: string
  tables: readonly string[]
  logFile: string
  metricsAddr: string
  signal: AbortSignal
  /** Milliseconds without output or progress after which molt is killed; undefined means no limit. */
  stallAfter?: number
  onProgress(progress: LoadProgress): void
  /** Called when the slot exists and the snapshot is taken, before any row is moved. */
  onStarted?(cursor: string): void
  /** Called when every table has been read completely. Rows may still be in flight to the target. */
  onRead?(account: FetchAccount): void
  /** Returns a sentence that explains molt's last output, for example by naming the columns it is about. */
  explain?(said: string): Promise<string | undefined>
}

/** The result of a load: a summary of molt's output, and the failure if there was one. */
export interface LoadResult {
  account: FetchAccount
  /** ToolError or CancelledError. Undefined after exit code 0, which alone proves nothing. */
  failure?: unknown
}

const SILENT =
  'IMPORT INTO of a large table can print nothing for a long time (run SHOW JOBS on the target to see its progress). Otherwise, look for locks on the target, and check whether the runner is out of memory or disk space'

/**
 * Runs `molt fetch` until it exits, and records its output. Kills it as soon as it names a table that is not expected.
 */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const account = emptyAccount(options.schema)
  let measured: { exported: number; imported: number } | undefined
  const tell = () =>
    options.onProgress({
      tablesRead: account.exportsFinished,
      tablesImported:
        account.importsFinished || !options.args.includes('--direct-copy') ? account.importsFinished : undefined,
      rows: Math.max(account.exportedRows, measured?.exported ?? 0),
    })
  const child = new Child({
    program: 'molt',
    args: options.args,
    logFile: options.logFile,
    scrub: moltScrubber(),
    hidePasswords: true,
    onLine(line) {
      stall.heard()
      const event = parseEvent(line)
      if (!event) return countChatter(account.unknown, line)
      const [started, read] = [account.startCursor, account.exportsFinished]
      accountFor(account, event)
      if (!started && account.startCursor) options.onStarted?.(account.startCursor)
      if (read < options.tables.length && account.exportsFinished >= options.tables.length) options.onRead?.(account)
      if (strayTables(account, options.tables).length) void child.stop(0)
      tell()
    },
  })
  let answers = true
  const stall = new StallWatch({
    name: 'molt fetch',
    known: () =>
      `last line: ${child.lastWords}; ${measured ? `its metrics show ${number(measured.exported)} rows read and ${number(measured.imported)} written` : 'its metrics show no rows yet'}${answers ? '' : ', but it no longer answers requests for its metrics'}`,
    advice: SILENT,
    stallAfter: options.stallAfter,
    end: () => void child.stop(TIMING.toolStop),
  })
  const timer = setInterval(async () => {
    const text = await httpText(`http://${options.metricsAddr}/metrics`).catch(() => undefined)
    answers = text !== undefined
    const rows = text === undefined ? undefined : fetchedRows(text)
    if (rows && (rows.exported !== measured?.exported || rows.imported !== measured.imported)) stall.heard()
    measured = rows ?? measured
    tell()
  }, TIMING.loadSample)
  const exit = await child.exitedOrStopped(options.signal)
  clearInterval(timer)
  stall.stop()
  if (options.signal.aborted) return { account, failure: options.signal.reason }
  if (stall.reason)
    return { account, failure: child.failure({ code: 'tool.stalled', said: child.lastWords, advice: stall.reason }) }
  if (exit.code === 0 || strayTables(account, options.tables).length) return { account }
  // Ignore "closing write goroutine: EOF": it only follows from the error that molt printed before it.
  const errors = account.errors.filter((error) => !/closing write goroutine: EOF$/.test(error))
  const said = child.errorLine ?? errors.at(-1) ?? child.lastWords
  const before = errors.find((error) => !error.includes(said))
  // Newer builds stop at a table that older builds skip, but name the table only in earlier lines.
  const skipped = account.skipped.slice(0, 10).map(({ table, reason }) => `${table}: ${reason}.`)
  const known = explainFetch(said)
  const advice = [...skipped, await options.explain?.(said), known?.advice, before && `Before that: ${before}.`]
  return { account, failure: child.failure({ code: known?.code, said, advice: advice.filter(Boolean).join(' ') }) }
}

/** Advice for a target that is not CockroachDB. The real molt checks the target's version and exits [run]. */
export const NOT_COCKROACH =
  'The target is not CockroachDB, which molt requires. Set `target` to the cluster (`--target` of `npm run rehearse`).'

/** Patterns of molt's output, each with an error code and advice. */
const ADVICE: [RegExp, ErrorCode, string][] = [
  [
    /replication slot .* already exists/i,
    'load.interrupted',
    'An earlier load did not finish. Set `on-interrupted: restart` to drop the slot and reload.',
  ],
  [/target must be cockroach/i, 'molt.target-not-cockroach', NOT_COCKROACH],
  [
    /EXTERNALIOIMPLICITACCESS/,
    'database.missing-right',
    'IMPORT INTO requires this privilege for files over HTTP and for buckets with implicit credentials. Grant the migration user SYSTEM EXTERNALIOIMPLICITACCESS on the target.',
  ],
  [
    /must be superuser or replication role|permission denied/i,
    'database.missing-right',
    'Grant the migration user the privileges that `prepare` lists.',
  ],
  [
    /unknown flag/i,
    'molt.unknown-flag',
    'This build of molt does not support one of the flags. Use the version that `setup` pins by default.',
  ],
  [/no space left/i, 'load.disk-full', 'The disk for intermediate files is full. Free some space, or use a bucket.'],
  [
    /not yet translatable|array element OID not registered/i,
    'molt.type-unsupported',
    'This build of molt cannot move one of the column types. Exclude the table, or use a newer build.',
  ],
  [
    /duplicate key|ingested key collides|23505/i,
    'load.duplicate-key',
    'The target already has a row with this key, either from before the load or from a failed import that MOLT kept in part. Empty the table, then rerun the step.',
  ],
  [
    /is a generated column/i,
    'load.generated-column',
    'A generated column cannot be loaded. Exclude its table, or turn the column into a plain one on both sides until the switch (see the check `tbl.generated`).',
  ],
  [
    /violates not-null constraint/i,
    'load.null-refused',
    'The target requires a value where molt wrote NULL. Early builds write NULL for an empty string. Look for empty strings in that column on the source, or use a newer build.',
  ],
  [/all replication slots are in use|53400/i, 'slot.none-free', 'Raise max_replication_slots on the source.'],
  [
    /password authentication failed|failed SASL auth/i,
    'connect.login-refused',
    'Check the user and the password in both URLs.',
  ],
  [
    /insecure connection|allow-tls-mode-disable/i,
    'input.insecure-url',
    'Use sslmode=verify-full, or set `allow-insecure: true`.',
  ],
  [
    /failed to get s3 object|too many retries; giving up|error response from server|file doesn't exist/,
    'load.files-unreadable',
    "The target must be able to read the files at the URL that MOLT passes to it. Check the target's access to the bucket, or `local-path-crdb-access-addr`.",
  ],
  [
    /NoCredentialProviders|SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken|ExpiredToken|NoSuchBucket|AccessDenied/,
    'load.bucket-refused',
    "Set the bucket's keys, region and endpoint in the step's environment (AWS_…). The keys need permission to read, write and list.",
  ],
  [/no exception logs/i, 'load.cannot-resume', 'There is nothing to resume. Set `on-interrupted: restart`.'],
]

/** Returns the error code and advice for molt's last output; undefined if no pattern matches. */
function explainFetch(said: string): { code: ErrorCode; advice: string } | undefined {
  const found = ADVICE.find(([regex]) => regex.test(said))
  return found ? { code: found[1], advice: found[2] } : explainWords(said)
}
