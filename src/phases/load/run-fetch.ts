import type { ErrorCode } from '../../runtime/codes.ts'
import { number } from '../../runtime/progress.ts'
import { explainWords } from '../../runtime/refusals.ts'
import { TIMING } from '../../runtime/timing.ts'
import { countChatter, parseEvent } from '../../tools/events.ts'
import { accountFor, emptyAccount, type FetchAccount, fetchedRows, strayTables } from '../../tools/molt-fetch.ts'
import { Child, httpText } from '../../tools/process.ts'
import { moltScrubber } from '../../tools/scrub.ts'
import { StallWatch } from '../stream/stall.ts'

/** How far a load has come; `rows` counts rows read from the source. */
export interface LoadProgress {
  tablesRead: number
  /** Undefined when molt does not report it. Early builds do not, for a direct copy. */
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
  /** Milliseconds without output or progress before molt is ended; undefined for never. */
  stallAfter?: number
  onProgress(progress: LoadProgress): void
  /** The slot exists and the snapshot is taken; no row has been moved. */
  onStarted?(cursor: string): void
  /** Every table is read completely; rows may still be on their way to the target. */
  onRead?(account: FetchAccount): void
  /** Returns a sentence that explains molt's last output, such as the columns that it is about. */
  explain?(said: string): Promise<string | undefined>
}

/** How a load ended: the account of its output, and the failure if there was one. */
export interface LoadResult {
  account: FetchAccount
  /** ToolError or CancelledError. Without one the exit code was 0, which alone proves nothing. */
  failure?: unknown
}

const SILENT =
  'IMPORT INTO of a large table can print nothing for a long time (run SHOW JOBS on the target for its progress). Otherwise look for locks on the target, and for a runner without free memory or disk'

/** Runs `molt fetch` to its end and records its output. Ends it before it moves a table that is not expected. */
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
      `last line: ${child.lastWords}; ${measured ? `its metrics show ${number(measured.exported)} rows read and ${number(measured.imported)} written` : 'its metrics show no row yet'}${answers ? '' : ', and they no longer answer'}`,
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
  // A writer's end of file is only a consequence of the error that ended it, and is printed after it.
  const errors = account.errors.filter((error) => !/closing write goroutine: EOF$/.test(error))
  const said = child.errorLine ?? errors.at(-1) ?? child.lastWords
  const before = errors.find((error) => !error.includes(said))
  // New builds stop at a table that older ones skip, and name it only in earlier lines.
  const skipped = account.skipped.slice(0, 10).map(({ table, reason }) => `${table}: ${reason}.`)
  const known = explainFetch(said)
  const advice = [...skipped, await options.explain?.(said), known?.advice, before && `Before that: ${before}.`]
  return { account, failure: child.failure({ code: known?.code, said, advice: advice.filter(Boolean).join(' ') }) }
}

/** Advice for a target that is not CockroachDB: the real molt reads its version, and exits [run]. */
export const NOT_COCKROACH =
  'The target is not CockroachDB, which molt requires. Set `target` to the cluster (`--target` of `npm run rehearse`).'

/** Error code and advice for output that matches. */
const ADVICE: [RegExp, ErrorCode, string][] = [
  [
    /replication slot .* already exists/i,
    'load.interrupted',
    'An earlier load did not finish. Set `on-interrupted: restart` to drop the slot and load again.',
  ],
  [/target must be cockroach/i, 'molt.target-not-cockroach', NOT_COCKROACH],
  [
    /EXTERNALIOIMPLICITACCESS/,
    'database.missing-right',
    'IMPORT INTO requires this right for files over HTTP and for buckets with implicit credentials. Grant the migration user SYSTEM EXTERNALIOIMPLICITACCESS on the target.',
  ],
  [
    /must be superuser or replication role|permission denied/i,
    'database.missing-right',
    'Grant the migration user what `prepare` lists.',
  ],
  [
    /unknown flag/i,
    'molt.unknown-flag',
    'This build of molt does not know a flag. Use the version that `setup` pins by default.',
  ],
  [/no space left/i, 'load.disk-full', 'The disk for intermediate files is full. Free space on it, or use a bucket.'],
  [
    /not yet translatable|array element OID not registered/i,
    'molt.type-unsupported',
    'This build of molt cannot move a type of one of the tables. Leave the table out, or use a newer build.',
  ],
  [
    /duplicate key|ingested key collides|23505/i,
    'load.duplicate-key',
    'A row with this key is already on the target, from before the load or from the half of a failed import that MOLT kept. Empty the table, then rerun the step.',
  ],
  [
    /is a generated column/i,
    'load.generated-column',
    'A generated column cannot be loaded. Leave its table out, or make the column a plain one on both sides until the switch (see the check `tbl.generated`).',
  ],
  [
    /violates not-null constraint/i,
    'load.null-refused',
    'The target requires a value where molt wrote NULL. Early builds write NULL for an empty string: look for empty strings in that column on the source, or use a newer build.',
  ],
  [/all replication slots are in use|53400/i, 'slot.none-free', 'Raise max_replication_slots on the source.'],
  [
    /password authentication failed|failed SASL auth/i,
    'connect.login-refused',
    'Check the user and the password of both URLs.',
  ],
  [
    /insecure connection|allow-tls-mode-disable/i,
    'input.insecure-url',
    'Use sslmode=verify-full, or set `allow-insecure: true`.',
  ],
  [
    /failed to get s3 object|too many retries; giving up|error response from server|file doesn't exist/,
    'load.files-unreadable',
    'The target must reach the files at the URL that MOLT passes to it. Check its access to the bucket, or `local-path-crdb-access-addr`.',
  ],
  [
    /NoCredentialProviders|SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken|ExpiredToken|NoSuchBucket|AccessDenied/,
    'load.bucket-refused',
    "Set keys, region and endpoint of the bucket in the step's environment (AWS_…), with the rights to read, write and list.",
  ],
  [/no exception logs/i, 'load.cannot-resume', 'There is nothing to resume. Set `on-interrupted: restart`.'],
]

/** Error code and advice for molt's last output; undefined when none is known. */
function explainFetch(said: string): { code: ErrorCode; advice: string } | undefined {
  const found = ADVICE.find(([regex]) => regex.test(said))
  return found ? { code: found[1], advice: found[2] } : explainWords(said)
}
