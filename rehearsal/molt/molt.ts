import { FETCH_FLAGS, fetchCommand } from './fetch.ts'
import { FlagError, type FlagSpec, type Flags, flagUsages, parseFlags } from './flags.ts'
import { MOLT_VERSION } from './molt-log.ts'
import { errorText } from './pg.ts'
import { VERIFY_FLAGS, verifyCommand } from './verify.ts'

interface Command {
  short: string
  flags: readonly FlagSpec[]
  run(flags: Flags): Promise<void>
}

const COMMANDS: Record<string, Command> = {
  fetch: { short: 'Moves data from source to target.', flags: FETCH_FLAGS, run: fetchCommand },
  verify: { short: 'Verify table schemas and row data align.', flags: VERIFY_FLAGS, run: verifyCommand },
}

const ROOT_HELP = `MOLT, the embedded stand-in for rehearsals: moves PostgreSQL to PostgreSQL with the command lines of molt.

Usage:
  molt [command]

Available Commands:
${Object.entries(COMMANDS)
  .map(([name, command]) => `  ${name.padEnd(8)}${command.short}`)
  .join('\n')}

Flags:
  -h, --help      Help for molt command.
  -v, --version   version for molt

Use "molt [command] --help" for more information about a command.
`

/**
 * Runs the embedded stand-in for `molt`. JSON lines go to standard output.
 * @param argv arguments after the program's name
 * @returns the exit code
 */
export async function moltMain(argv: string[]): Promise<number> {
  const [name, ...rest] = argv
  if (name === '--version' || name === '-v') return say(`molt version ${MOLT_VERSION}\n`)
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') return say(ROOT_HELP)
  const command = COMMANDS[name]
  if (!command) {
    if (name.startsWith('-')) return fail(`unknown flag: ${name}`, ROOT_HELP)
    return fail(`unknown command ${JSON.stringify(name)} for "molt"`, `Run 'molt --help' for usage.\n`)
  }
  return runCommand(name, command, rest)
}

async function runCommand(name: string, command: Command, argv: string[]): Promise<number> {
  const usage = `Usage:\n  molt ${name} [flags]\n\nFlags:\n${flagUsages(command.flags)}\n`
  try {
    const { flags, help } = parseFlags(argv, command.flags)
    if (help) return say(`${command.short}\n\n${usage}`)
    const missing = ['source', 'target'].filter((flag) => !flags.has(flag))
    if (missing.length)
      throw new FlagError(`required flag(s) ${missing.map((m) => JSON.stringify(m)).join(', ')} not set`)
    await command.run(flags)
    return 0
  } catch (error) {
    return fail(describe(name, error), usage)
  }
}

function describe(command: string, error: unknown): string {
  const message = errorText(error)
  if (/^failed to connect to/.test(message)) return `error connect: ${message}`
  return command === 'verify' && !(error instanceof FlagError) ? `error verifying: ${message}` : message
}

function say(text: string): number {
  process.stdout.write(text)
  return 0
}

/** Prints the error, the usage, and the error again, because both cobra and the program print it. */
function fail(message: string, usage: string): number {
  process.stderr.write(`Error: ${message}\n${usage}\n${message}\n`)
  return 1
}
