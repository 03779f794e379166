import { readFileSync } from 'node:fs'
import { getInput } from '@actions/core'
import { closest } from 'fastest-levenshtein'
import { COMMON, type ConfigProblem, parseConfig, textOf, variableOf } from './config.ts'
import { InputError, messageOf } from './errors.ts'
import { addSecret, addSecretUrl } from './secrets.ts'
import { type ActionSpec, camel, type InputSpec, type InputsOf } from './spec.ts'

/**
 * Reads and checks every input of an action. The step's `with` has precedence over the config file, and the config file
 * over the default.
 * @param all specs of all actions, because a config file can have a section for each of them
 * @throws InputError for the first missing or invalid input, before the action does anything
 */
export function loadInputs<S extends ActionSpec>(spec: S, all: readonly ActionSpec[]): InputsOf<S> {
  for (const [name, input] of Object.entries(spec.inputs)) mask(input, getInput(name))
  const file = loadConfig(getInput('config'), spec, all)
  const values: Record<string, unknown> = {}
  for (const [name, input] of Object.entries(spec.inputs)) {
    const own = getInput(name)
    const given = own || fromFile(file[name], name, input)
    const where = given && !own ? `\`${name}\` in ${getInput('config')}` : `input \`${name}\``
    const value = given || input.fallback
    values[camel(name)] = value ? check(where, input, value) : missing(name, input)
  }
  return values as InputsOf<S>
}

function mask(input: InputSpec<unknown>, value: string): void {
  if (!value || !input.type.secret) return
  if (input.type.secret === 'url') addSecretUrl(value)
  else addSecret(value)
}

function missing(name: string, input: InputSpec<unknown>): undefined {
  if (input.required)
    throw new InputError('input.missing', `input \`${name}\` is missing. Set it to ${input.type.hint}`)
  return undefined
}

function check(where: string, input: InputSpec<unknown>, given: string): unknown {
  const result = input.type.schema.safeParse(given)
  if (result.success) return result.data
  const own = result.error.issues.find((issue) => issue.code === 'custom')?.message
  const shown = input.type.secret ? (own ?? 'it is not valid') : `${JSON.stringify(given)} is not valid`
  throw new InputError('input.invalid', `${where}: ${shown}. Set it to ${input.type.hint}`)
}

/**
 * Reads a value from the config file. For a secret, the file contains only `env:NAME`, and the value comes from that
 * variable.
 */
function fromFile(value: unknown, name: string, input: InputSpec<unknown>): string | undefined {
  if (value === undefined || value === null) return undefined
  if (!input.type.secret) return textOf(value)
  const variable = variableOf(value) as string
  const secret = process.env[variable]
  if (!secret)
    throw new InputError(
      'config.variable-empty',
      `\`${name}\` in the config file refers to the environment variable ${variable}, which is empty or not set. Set the secret, and pass it in \`env:\` of the job`,
    )
  mask(input, secret)
  return secret
}

/**
 * Reads the config file's values for an action: the section `common`, overridden by the action's own section.
 * @throws InputError that lists every error in the file, including errors in the sections of other actions
 */
function loadConfig(path: string, spec: ActionSpec, all: readonly ActionSpec[]): Record<string, unknown> {
  if (!path) return {}
  const { sections, problems } = parseConfig(readText(path), all)
  const [first] = problems
  if (first) throw new InputError(first.code, problems.map((each) => problemText(path, each)).join('\n'))
  return { ...sections[COMMON], ...sections[spec.name] }
}

/**
 * Formats an error as `molt-actions.yml:3:5: what is wrong`, like compilers do, so that editors can link to the
 * position.
 */
export function problemText(path: string, { line, column, what }: ConfigProblem): string {
  return `${path}:${line}:${column}: ${what}`
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const absent = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const why = absent
      ? 'it does not exist. Check out the repository before this step, or correct the path'
      : messageOf(error)
    throw new InputError('config.unreadable', `input \`config\`: ${path} cannot be read: ${why}`)
  }
}

/** Text to append to an error about an unknown name: the most similar known name. */
export function didYouMean(name: string, known: readonly string[]): string {
  return known.length ? `; did you mean \`${closest(name, [...known])}\`?` : ''
}
