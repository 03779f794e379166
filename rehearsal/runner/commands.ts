import { isAbsolute, relative } from 'node:path'

/** A workflow command in a line of output: `::name key=value,key=value::data`. */
interface Command {
  name: string
  properties: Record<string, string>
  data: string
}

type Level = 'error' | 'warning' | 'notice'

/** An annotation, which GitHub shows in the log and on the run's page. Lines and columns start at 1. */
export interface Annotation {
  level: Level
  message: string
  title?: string
  /** Relative to the workspace if the file is inside it. */
  file?: string
  line?: number
  endLine?: number
  col?: number
  endColumn?: number
}

/** Receives the effects of a step's commands. */
export interface CommandTarget {
  workspace: string
  /** A variable of the step's environment, including the two switches that allow insecure commands. */
  env(name: string): string | undefined
  echo: boolean
  output(text: string): void
  debug(text: string): void
  annotate(annotation: Annotation): void
  mask(value: string): void
  setOutput(name: string, value: string): void
  saveState(name: string, value: string): void
  setEnv(name: string, value: string): void
  addPath(path: string): void
  /** Makes the step fail even if its process exits with 0. */
  fail(): void
}

const DATA_ESCAPES = ['\r', '%0D', '\n', '%0A', '%', '%25']
const PROPERTY_ESCAPES = ['\r', '%0D', '\n', '%0A', ':', '%3A', ',', '%2C', '%', '%25']

const DEPRECATED =
  'is deprecated and will be disabled soon; write to the file that $GITHUB_OUTPUT or $GITHUB_STATE names'
const DISABLED =
  'is disabled. Write to the file that $GITHUB_ENV or $GITHUB_PATH names, or set ACTIONS_ALLOW_UNSECURE_COMMANDS to true.'
const BAD_TOKEN =
  "The token of stop-commands must not be empty, 'pause-logging' or the name of a workflow command, unless ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS is true."

/** Names that GITHUB_ENV and `set-env` refuse, because they affect node in every later step. */
const BLOCKED_ENV = ['NODE_OPTIONS']

type Handler = (target: CommandTarget, command: Command) => void

/**
 * Commands that are never echoed, even with `::echo::on`: `add-mask` contains a secret, and the others write a log line
 * anyway.
 */
const SILENT = new Set(['add-mask', 'debug', 'warning', 'error', 'notice'])

const HANDLERS: Record<string, Handler> = {
  'set-env': (target, { name, properties, data }) => {
    requireUnsecure(target, name)
    setEnv(target, required(properties, 'name', name), data, 'the set-env command')
  },
  'add-path': (target, { name, data }) => {
    requireUnsecure(target, name)
    if (!data) throw new Error('add-path needs a path')
    target.addPath(data)
  },
  'set-output': (target, { name, properties, data }) => {
    target.annotate({ level: 'warning', message: `The \`${name}\` command ${DEPRECATED}` })
    target.setOutput(required(properties, 'name', name), data)
  },
  'save-state': (target, { name, properties, data }) => {
    target.annotate({ level: 'warning', message: `The \`${name}\` command ${DEPRECATED}` })
    target.saveState(required(properties, 'name', name), data)
  },
  'add-mask': (target, { data }) => {
    if (!data.trim()) {
      target.annotate({ level: 'warning', message: "Can't add secret mask for empty string in ##[add-mask] command." })
      return
    }
    if (target.echo) target.output('::add-mask::***')
    target.mask(data)
  },
  'add-matcher': unsupported,
  'remove-matcher': unsupported,
  debug: (target, { data }) => target.debug(data),
  error: issue,
  warning: issue,
  notice: issue,
  group: (target, { data }) => target.output(`##[group]${data}`),
  endgroup: (target) => target.output('##[endgroup]'),
  echo: (target, { data }) => {
    const value = data.trim().toLowerCase()
    if (value !== 'on' && value !== 'off') throw new Error(`Invalid echo command value '${data}': write 'on' or 'off'.`)
    target.echo = value === 'on'
  },
}

/**
 * Handles workflow commands in a step's output. The returned function takes a line and returns whether it was a
 * command. If so, the command has taken effect and written its log lines; otherwise, the line is normal output.
 */
export function commandReader(target: CommandTarget): (line: string) => boolean {
  const known = new Set(['stop-commands', ...Object.keys(HANDLERS)])
  let stopToken: string | undefined
  return (line) => {
    const command = parseCommand(line, known)
    if (!command) return false
    const name = command.name.toLowerCase()
    if (stopToken !== undefined) {
      if (name !== stopToken) return false
      known.delete(stopToken)
      stopToken = undefined
      target.output(line)
      return true
    }
    if (name === 'stop-commands') {
      requireStopToken(target, command.data, known)
      stopToken = command.data.toLowerCase()
      known.add(stopToken)
      if (command.data.length > 6) target.mask(command.data)
      target.output(line)
      return true
    }
    handle(target, { ...command, name }, line)
    return true
  }
}

function handle(target: CommandTarget, command: Command, line: string): void {
  const silent = SILENT.has(command.name)
  if (target.echo && !silent) target.output(line)
  try {
    HANDLERS[command.name]?.(target, command)
  } catch (error) {
    const shown = silent ? command.name : line
    target.annotate({ level: 'error', message: `Unable to process command '${shown}' successfully.` })
    target.annotate({ level: 'error', message: error instanceof Error ? error.message : String(error) })
    target.fail()
  }
}

/** Finds a command at the start of a line. `known` contains lower-case names. */
function parseCommand(text: string, known: ReadonlySet<string>): Command | undefined {
  const line = text.trimStart()
  const end = line.startsWith('::') ? line.indexOf('::', 2) : -1
  if (end < 0) return undefined
  const [name = '', ...rest] = line.slice(2, end).split(' ')
  if (!known.has(name.toLowerCase())) return undefined
  const properties: Record<string, string> = {}
  for (const pair of rest.join(' ').trim().split(',')) {
    const equals = pair.indexOf('=')
    if (equals <= 0 || equals === pair.length - 1) continue
    properties[pair.slice(0, equals).toLowerCase()] = unescaped(pair.slice(equals + 1), PROPERTY_ESCAPES)
  }
  return { name, properties, data: unescaped(line.slice(end + 2), DATA_ESCAPES) }
}

/** Replaces escapes. `%` is last in every list, so that a decoded percent sign does not start another escape. */
function unescaped(text: string, escapes: string[]): string {
  let out = text
  for (let i = 0; i < escapes.length; i += 2) out = out.replaceAll(escapes[i + 1] as string, escapes[i] as string)
  return out
}

function required(properties: Record<string, string>, name: string, command: string): string {
  const value = properties[name]
  if (!value) throw new Error(`Required field '${name}' is missing in ##[${command}] command.`)
  return value
}

function requireUnsecure(target: CommandTarget, name: string): void {
  if (target.env('ACTIONS_ALLOW_UNSECURE_COMMANDS')?.toLowerCase() !== 'true')
    throw new Error(`The \`${name}\` command ${DISABLED}`)
}

/** Throws for a guessable token. The error is not caught and ends the step, as on GitHub. */
function requireStopToken(target: CommandTarget, token: string, known: ReadonlySet<string>): void {
  const bad = token === '' || token.toLowerCase() === 'pause-logging' || known.has(token.toLowerCase())
  const allowed = ['true', '1'].includes(target.env('ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS')?.toLowerCase() ?? '')
  if (bad && !allowed) throw new Error(BAD_TOKEN)
}

function unsupported(_target: CommandTarget, { name }: Command): void {
  throw new Error(`${name} is not supported by the local runner: it has no problem matchers.`)
}

/** Sets a variable for later steps, unless the runner refuses it. */
export function setEnv(target: CommandTarget, name: string, value: string, how: string): void {
  if (BLOCKED_ENV.includes(name.toUpperCase()))
    target.annotate({ level: 'error', message: `Can't set the environment variable ${name} by ${how}.` })
  else target.setEnv(name, value)
}

function issue(target: CommandTarget, { name, properties, data }: Command): void {
  const position = positionOf(properties)
  const { title, file } = properties
  const annotation: Annotation = { level: name as Level, message: data, ...position }
  if (title) annotation.title = title
  if (file) annotation.file = relativeTo(target.workspace, file)
  target.annotate(annotation)
}

/** Drops inconsistent lines and columns: columns require a single line, and an end must not precede its start. */
function positionOf(properties: Record<string, string>): Partial<Annotation> {
  let line = integer(properties.line)
  let endLine = integer(properties.endline)
  let col = integer(properties.col)
  let endColumn = integer(properties.endcolumn)
  line ??= endLine
  col ??= endColumn
  if (line === undefined || (endLine !== undefined && endLine !== line)) col = endColumn = undefined
  if (line !== undefined && endLine !== undefined && endLine < line) line = endLine = undefined
  if (col !== undefined && endColumn !== undefined && endColumn < col) col = endColumn = undefined
  const all = { line, endLine, col, endColumn }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

function integer(text: string | undefined): number | undefined {
  return text !== undefined && /^\s*[+-]?\d+\s*$/.test(text) ? Number(text) : undefined
}

function relativeTo(workspace: string, file: string): string {
  const path = isAbsolute(file) ? relative(workspace, file) : file
  return path.startsWith('..') ? file : path
}

/**
 * Parses the `name=value` and `name<<delimiter` entries of the files for GITHUB_OUTPUT, GITHUB_ENV or GITHUB_STATE, in
 * order. As on GitHub, entries before a faulty one have taken effect when it throws.
 */
export function* parseEntries(text: string): Generator<[name: string, value: string]> {
  const lines = text.replace(/^\uFEFF/, '').split('\n')
  // Text after the last newline is also an entry.
  const unterminated = lines.pop() as string
  const count = lines.length
  if (unterminated) lines.push(unterminated)
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] as string
    if (!line) continue
    const equals = line.indexOf('=')
    const heredoc = line.indexOf('<<')
    if (equals >= 0 && (heredoc < 0 || equals < heredoc)) {
      yield [line.slice(0, equals), line.slice(equals + 1)]
    } else if (heredoc >= 0) {
      const name = line.slice(0, heredoc)
      const delimiter = line.slice(heredoc + 2)
      if (!name || !delimiter)
        throw new Error(`Invalid format '${line}'. Name must not be empty and delimiter must not be empty`)
      const start = i + 1
      for (i = start; lines[i] !== delimiter; i++) {
        if (i >= lines.length) throw new Error(`Invalid value. Matching delimiter not found '${delimiter}'`)
        if (i >= count) throw new Error('Invalid value. EOF marker missing new line.')
      }
      yield [name, lines.slice(start, i).join('\n')]
    } else {
      throw new Error(`Invalid format '${line}'`)
    }
  }
}

/** Replaces registered values and their common encodings with `***`. */
export class Masker {
  readonly #secrets = new Set<string>()

  /** Masks `value`, each of its lines, and its common encodings. */
  add(value: string): void {
    const lines = value.split(/[\r\n]/).map((line) => line.trim())
    for (const secret of new Set([value, ...lines])) {
      if (!secret) continue
      this.#secrets.add(secret)
      for (const encoded of encodings(secret)) if (encoded) this.#secrets.add(encoded)
    }
  }

  mask(text: string): string {
    const hits: [number, number][] = []
    for (const secret of this.#secrets)
      for (let at = text.indexOf(secret); at >= 0; at = text.indexOf(secret, at + 1))
        hits.push([at, at + secret.length])
    if (hits.length === 0) return text
    hits.sort((a, b) => a[0] - b[0])
    let out = ''
    let end = -1
    for (const [from, to] of hits) {
      // Overlapping and adjacent matches become one `***`, so that their number reveals nothing.
      if (from > end) out += `${text.slice(Math.max(end, 0), from)}***`
      end = Math.max(end, to)
    }
    return out + text.slice(end)
  }

  holds(text: string): boolean {
    return this.mask(text) !== text
  }
}

/**
 * Forms of a secret that GitHub's runner masks too: base64 at three offsets, and the escapes of shells, JSON, URLs and
 * XML.
 */
function encodings(value: string): string[] {
  const bytes = Buffer.from(value)
  const shifted = (by: number) => bytes.subarray(bytes.length > by ? by : 0).toString('base64')
  return [
    shifted(0),
    shifted(1),
    shifted(2),
    value.replaceAll('"', '\\"'),
    value.replaceAll("'", "''"),
    JSON.stringify(value).slice(1, -1),
    encodeURIComponent(Buffer.from(value).toString()).replace(
      /[!'()*]/g,
      (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
    ),
    value.replace(/[<>&"']/g, (c) => XML[c] as string),
    value.length > 8 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : '',
    ...ampersandParts(value),
  ]
}

const XML: Record<string, string> = { '<': '&lt;', '>': '&gt;', '&': '&amp;', '"': '&quot;', "'": '&apos;' }

/**
 * Splits a secret at ampersands: PowerShell prints a failed command in two parts, split at an ampersand. GitHub's
 * runner masks each part of 6 characters or more.
 */
function ampersandParts(value: string): string[] {
  const plus = value.indexOf('&+')
  const cut = plus >= 0 ? plus + 2 : value.lastIndexOf('&') + 1
  if (cut === 0) return []
  return [value.slice(0, cut), value.slice(plus >= 0 ? cut + 1 : cut)].filter((part) => part.length >= 6)
}
