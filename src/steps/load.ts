import type { Plan } from '../target/ledger.ts'
import { parseEvent } from '../tools/events.ts'
import { accountFor, emptyAccount, type FetchAccount } from '../tools/molt-fetch.ts'
import { Child } from '../tools/process.ts'
import { moltScrubber } from '../tools/scrub.ts'

/** How far a load has come; `rows` counts what was read from the source. */
export interface LoadProgress {
  tablesDone: number
  tablesTotal: number
  rows: number
}

/**
 * Runs `molt fetch` to its end and keeps the account of what it said.
 * @throws ToolError when it ends with anything but exit code 0; exit code 0 alone proves nothing
 */
export async function runLoad(options: {
  program: string
  args: readonly string[]
  plan: Plan
  logFile: string
  signal: AbortSignal
  onProgress(progress: LoadProgress): void
}): Promise<FetchAccount> {
  const account = emptyAccount()
  const child = new Child({
    program: options.program,
    args: options.args,
    logFile: options.logFile,
    scrub: moltScrubber(),
    hidePasswords: true,
    onLine(line) {
      const event = parseEvent(line)
      if (!event) return
      accountFor(account, event)
      options.onProgress({
        tablesDone: account.exportsFinished,
        tablesTotal: options.plan.tables.length,
        rows: account.exportedRows,
      })
    },
  })
  const cancel = () => void child.stop()
  options.signal.addEventListener('abort', cancel, { once: true })
  const exit = await child.exited
  options.signal.removeEventListener('abort', cancel)
  options.signal.throwIfAborted()
  if (exit.code === 0) return account
  throw child.failure(account.errors.at(-1) ?? child.lastError, explainFetch(child.lastError))
}

const ADVICE: [RegExp, string][] = [
  [
    /replication slot .* already exists/i,
    'A load was begun before: run `cleanup`, or set `on-interrupted: restart` to drop the slot and load again.',
  ],
  [
    /target must be cockroach/i,
    'The target is not CockroachDB; `embedded: true` of `setup` installs the stand-in for rehearsals on PostgreSQL.',
  ],
  [/must be superuser or replication role|permission denied/i, 'Grant the migration user what `prepare` lists.'],
  [/unknown flag/i, 'This build of molt does not know a flag; take the version that `setup` pins by default.'],
  [/no space left/i, 'The disk for intermediate files is full.'],
]

function explainFetch(said: string): string | undefined {
  return ADVICE.find(([regex]) => regex.test(said))?.[1]
}
