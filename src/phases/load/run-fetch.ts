import type { ErrorCode } from '../../runtime/codes.ts'
import { number } from '../../runtime/progress.ts'
import { explainWords } from '../../runtime/refusals.ts'
import { TIMING } from '../../runtime/timing.ts'
import { countChatter, parseEvent } from '../../tools/events.ts'
import { accountFor, emptyAccount, type FetchAccount, fetchedRows, strayTables } from '../../tools/molt-fetch.ts'
import { Child, httpText } from '../../tools/process.ts'
import { moltScrubber } from '../../tools/scrub.ts'
import { StallWatch } from '../stream/stall.ts'

/** How far a load has come; `rows` counts what was read from the source. */
export interface LoadProgress {
  tablesRead: number
  /** Undefined where the tool does not tell: early builds say nothing of a direct copy. */
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
  /** Milliseconds without a word and without a row after which it is ended; never, when not given. */
  stallAfter?: number
  onProgress(progress: LoadProgress): void
  /** The slot is made and the snapshot is taken; no row has been moved. */
  onStarted?(cursor: string): void
  /** Every table is read to its end; rows may still be on their way into the target. */
  onRead?(account: FetchAccount): void
  /** Which columns the tool's last words are about, in a sentence. */
  explain?(said: string): Promise<string | undefined>
}

/** How a load ended: what was said, and why it failed when it did. */
export interface LoadResult {
  account: FetchAccount
  /** ToolError or CancelledError. Without one the exit code was 0, which alone proves nothing. */
  failure?: unknown
}

const SILENT =
  'IMPORT INTO of a large table can be silent for long (SHOW JOBS on the target tells how far it is). Otherwise look for locks on the target and for a runner that is out of memory or disk'

/** Runs `molt fetch` to its end and keeps the account of what it said. Ends it before a stray table is moved. */
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
      silence.heard()
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
  const silence = new StallWatch({
    name: 'molt fetch',
    known: () =>
      `its last words were: ${child.lastWords}; ${measured ? `${number(measured.exported)} rows were read and ${number(measured.imported)} written by its metrics` : 'its metrics tell of no row yet'}${answers ? '' : ', and they do not answer any more'}`,
    advice: SILENT,
    stallAfter: options.stallAfter,
    end: () => void child.stop(TIMING.toolStop),
  })
  const timer = setInterval(async () => {
    const text = await httpText(`http://${options.metricsAddr}/metrics`).catch(() => undefined)
    answers = text !== undefined
    const rows = text === undefined ? undefined : fetchedRows(text)
    if (rows && (rows.exported !== measured?.exported || rows.imported !== measured.imported)) silence.heard()
    measured = rows ?? measured
    tell()
  }, TIMING.loadSample)
  const exit = await child.exitedOrStopped(options.signal)
  clearInterval(timer)
  silence.stop()
  if (options.signal.aborted) return { account, failure: options.signal.reason }
  if (silence.reason)
    return { account, failure: child.failure({ code: 'tool.stalled', said: child.lastWords, advice: silence.reason }) }
  if (exit.code === 0 || strayTables(account, options.tables).length) return { account }
  // A writer's end of file only follows from the error that ended it, and stands after it.
  const errors = account.errors.filter((error) => !/closing write goroutine: EOF$/.test(error))
  const said = child.errorLine ?? errors.at(-1) ?? child.lastWords
  const before = errors.find((error) => !error.includes(said))
  // The newest builds stop at what older ones leave out, and name it only in the lines before.
  const skipped = account.skipped.slice(0, 10).map(({ table, reason }) => `${table}: ${reason}.`)
  const known = explainFetch(said)
  const advice = [...skipped, await options.explain?.(said), known?.advice, before && `Before that: ${before}.`]
  return { account, failure: child.failure({ code: known?.code, said, advice: advice.filter(Boolean).join(' ') }) }
}

/** The real molt asks the target for its version, and ends when that is not CockroachDB's [seen]. */
export const NOT_COCKROACH =
  'The target is not CockroachDB, and molt takes no other. Set `target` to the cluster (`--target` of `npm run rehearse`).'

/** Each with the code of the error that these words make of a failure. */
const ADVICE: [RegExp, ErrorCode, string][] = [
  [
    /replication slot .* already exists/i,
    'load.interrupted',
    'A load was begun before: say `on-interrupted: restart` to drop the slot and load again.',
  ],
  [/target must be cockroach/i, 'molt.target-not-cockroach', NOT_COCKROACH],
  [
    /EXTERNALIOIMPLICITACCESS/,
    'database.missing-right',
    'IMPORT INTO reads files over HTTP, and buckets with implicit credentials, only with this right. On the target, run: GRANT SYSTEM EXTERNALIOIMPLICITACCESS TO the migration user.',
  ],
  [
    /must be superuser or replication role|permission denied/i,
    'database.missing-right',
    'Grant the migration user what `prepare` lists.',
  ],
  [
    /unknown flag/i,
    'molt.unknown-flag',
    'This build of molt does not know a flag; take the version that `setup` pins by default.',
  ],
  [/no space left/i, 'load.disk-full', 'The disk for intermediate files is full.'],
  [
    /not yet translatable|array element OID not registered/i,
    'molt.type-unsupported',
    'This build of molt cannot carry a type of one of the tables; leave the table out, or take a newer build.',
  ],
  [
    /duplicate key|ingested key collides|23505/i,
    'load.duplicate-key',
    'A row with this key is on the target already: from before the load, or from the half of a failed import that MOLT kept. Empty the table, then run this again.',
  ],
  [
    /is a generated column/i,
    'load.generated-column',
    'A generated column cannot be loaded: leave its table out, or make the column a plain one on both sides until the switch (the check `tbl.generated` says how).',
  ],
  [
    /violates not-null constraint/i,
    'load.null-refused',
    'The target wants a value where molt wrote NULL. Early builds write NULL for an empty text: look for empty texts in that column on the source, or take a newer build.',
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
    'Write sslmode=verify-full, or set `allow-insecure: true`.',
  ],
  [
    /failed to get s3 object|too many retries; giving up|error response from server|file doesn't exist/,
    'load.files-unreadable',
    'The target must reach the files under the URL that MOLT gives it: check its way to the bucket, or `local-path-crdb-access-addr`.',
  ],
  [
    /NoCredentialProviders|SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken|ExpiredToken|NoSuchBucket|AccessDenied/,
    'load.bucket-refused',
    "Set keys, region and endpoint of the bucket in the step's environment (AWS_…), and let them read, write and list it.",
  ],
  [/no exception logs/i, 'load.cannot-resume', 'There is nothing to continue; say `on-interrupted: restart`.'],
]

/** What to do about the tool's last words; undefined when nothing better is known than to read them. */
function explainFetch(said: string): { code: ErrorCode; advice: string } | undefined {
  const found = ADVICE.find(([regex]) => regex.test(said))
  return found ? { code: found[1], advice: found[2] } : explainWords(said)
}
