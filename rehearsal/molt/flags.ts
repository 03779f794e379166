/** Kind of a flag's value. Durations have Go's form (`200ms`, `1m30s`) and are parsed to milliseconds. */
type FlagKind = 'string' | 'int' | 'bool' | 'duration' | 'count'

/** A flag's entry: name, kind, default as shown in the help, and help text. */
export type FlagSpec = readonly [name: string, kind: FlagKind, def: string, usage: string]

/** Thrown for a command line that the real tools refuse, with their message. */
export class FlagError extends Error {}

/** Parsed flags. Getters throw if the flag is not defined. */
export class Flags {
  private readonly specs: Map<string, FlagSpec>
  private readonly given = new Map<string, string>()

  constructor(specs: readonly FlagSpec[]) {
    this.specs = new Map(specs.map((spec) => [spec[0], spec]))
  }

  has(name: string): boolean {
    return this.given.has(name)
  }

  str(name: string): string {
    return this.given.get(name) ?? this.spec(name)[2]
  }

  bool(name: string): boolean {
    return this.str(name) === 'true'
  }

  int(name: string): number {
    return Number(this.str(name) || '0')
  }

  /** A duration in milliseconds. */
  duration(name: string): number {
    return parseDuration(this.str(name) || '0s')
  }

  /** Stores a value after checking it against the flag's kind. Throws FlagError. */
  set(name: string, value: string): void {
    const kind = this.spec(name)[1]
    if (kind === 'count') {
      this.given.set(name, value === '+1' ? String(this.int(name) + 1) : value)
      return
    }
    const problem = checkValue(kind, value)
    if (problem) throw new FlagError(`invalid argument ${JSON.stringify(value)} for "--${name}" flag: ${problem}`)
    this.given.set(name, kind === 'bool' ? String(isTrue(value)) : value)
  }

  spec(name: string): FlagSpec {
    const spec = this.specs.get(name)
    if (!spec) throw new FlagError(`unknown flag: --${name}`)
    return spec
  }
}

/**
 * Parses arguments as pflag does: `--name value`, `--name=value`, bare `--bool`, repeated `-v`. `help` is true if `-h`
 * or `--help` is given. Throws FlagError in the tools' wording.
 */
export function parseFlags(
  argv: readonly string[],
  specs: readonly FlagSpec[],
): { flags: Flags; args: string[]; help: boolean } {
  const flags = new Flags(specs)
  const args: string[] = []
  let help = false
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i] as string
    if (arg === '--') {
      args.push(...argv.slice(i + 1))
      break
    }
    if (arg === '-h' || arg === '--help') help = true
    else if (arg.startsWith('--')) i += readLong(flags, arg, argv[i + 1])
    else if (arg.startsWith('-') && arg.length > 1) readShort(flags, arg)
    else args.push(arg)
  }
  return { flags, args, help }
}

/** Parses `--name[=value]`. @returns the number of further arguments used */
function readLong(flags: Flags, arg: string, next: string | undefined): number {
  const eq = arg.indexOf('=')
  const name = eq < 0 ? arg.slice(2) : arg.slice(2, eq)
  const kind = flags.spec(name)[1]
  if (eq >= 0) {
    flags.set(name, arg.slice(eq + 1))
    return 0
  }
  if (kind === 'bool' || kind === 'count') {
    flags.set(name, kind === 'bool' ? 'true' : '+1')
    return 0
  }
  if (next === undefined) throw new FlagError(`flag needs an argument: --${name}`)
  flags.set(name, next)
  return 1
}

/** `-v` is the only shorthand in these tools. */
function readShort(flags: Flags, arg: string): void {
  for (const letter of arg.slice(1)) {
    let known = letter === 'v'
    if (known) {
      try {
        flags.set('verbose', '+1')
      } catch {
        known = false
      }
    }
    if (!known) throw new FlagError(`unknown shorthand flag: '${letter}' in ${arg}`)
  }
}

const TRUE = new Set(['1', 't', 'T', 'TRUE', 'true', 'True'])
const FALSE = new Set(['0', 'f', 'F', 'FALSE', 'false', 'False'])

function isTrue(value: string): boolean {
  return TRUE.has(value)
}

function checkValue(kind: FlagKind, value: string): string | undefined {
  if (kind === 'bool' && !TRUE.has(value) && !FALSE.has(value))
    return `strconv.ParseBool: parsing ${JSON.stringify(value)}: invalid syntax`
  if (kind === 'int' && !/^[+-]?\d+$/.test(value))
    return `strconv.ParseInt: parsing ${JSON.stringify(value)}: invalid syntax`
  if (kind === 'duration' && Number.isNaN(parseDuration(value)))
    return `time: invalid duration ${JSON.stringify(value)}`
  return undefined
}

const UNITS: Record<string, number> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** Go's duration text in milliseconds; NaN if it is invalid. */
export function parseDuration(text: string): number {
  const match = /^([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+$/.exec(text)
  if (!match) return text === '0' ? 0 : Number.NaN
  let total = 0
  for (const part of text.matchAll(/(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)/g))
    total += Number(part[1]) * (UNITS[part[2] as string] as number)
  return text.startsWith('-') ? -total : total
}

/** Formats the flags as pflag's usage text. */
export function flagUsages(specs: readonly FlagSpec[]): string {
  const rows = [...specs]
    .sort((a, b) => (a[0] < b[0] ? -1 : 1))
    .map(([name, kind, def, usage]) => {
      const head = `      --${name}${kind === 'bool' ? '' : ` ${kind}`}`
      const shown =
        def === '' || def === 'false' || def === '0' ? '' : ` (default ${kind === 'string' ? `"${def}"` : def})`
      return [head, usage + shown] as const
    })
  const width = Math.max(...rows.map(([head]) => head.length)) + 3
  return rows.map(([head, text]) => head.padEnd(width) + text).join('\n')
}
