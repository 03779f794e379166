import { readFileSync } from 'node:fs'
import { getInput } from '@actions/core'
import { closest, distance } from 'fastest-levenshtein'
import { parseDocument } from 'yaml'
import { InputError, messageOf } from './errors.ts'
import { addSecret, addSecretUrl } from './secrets.ts'
import { type ActionSpec, camel, type InputSpec, type InputsOf } from './spec.ts'

type Section = Record<string, unknown>

/**
 * Reads and checks every input of an action: the step's `with`, otherwise the config file, otherwise the default.
 * @param all every action's spec, because one config file serves them all, and a misspelled section or key is an error
 * @throws InputError for the first input that is missing or does not fit, before anything else has happened
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

/** A file never contains a secret: it names the environment variable that does, as `env:NAME`. */
function fromFile(value: unknown, name: string, input: InputSpec<unknown>): string | undefined {
  if (value === undefined || value === null) return undefined
  if (!input.type.secret) return typeof value === 'string' ? value : JSON.stringify(value)
  const variable = /^env:([A-Za-z_]\w*)$/.exec(String(value))?.[1]
  if (!variable)
    throw new InputError(
      'config.secret-in-file',
      `\`${name}\` in the config file is a secret. Write env:NAME, with the environment variable that holds it`,
    )
  const secret = process.env[variable]
  if (!secret)
    throw new InputError(
      'config.variable-empty',
      `\`${name}\` in the config file names ${variable}, which is empty or not set`,
    )
  mask(input, secret)
  return secret
}

/** The config file's values for `spec`: its section `common`, overridden by the section named after the action. */
function loadConfig(path: string, spec: ActionSpec, all: readonly ActionSpec[]): Section {
  if (!path) return {}
  const allowed = new Map(all.map((each) => [each.name, Object.keys(each.inputs)]))
  allowed.set('common', [...new Set([...allowed.values()].flat())])
  const sections = readYaml(path)
  for (const [name, section] of Object.entries(sections)) {
    requireKnown(name, [...allowed.keys()], `section \`${name}\` in ${path}`)
    if (section === null || typeof section !== 'object' || Array.isArray(section))
      throw new InputError('config.invalid', `section \`${name}\` in ${path} is not a map of input names to values`)
    for (const key of Object.keys(section)) requireKnown(key, allowed.get(name) ?? [], `\`${name}.${key}\` in ${path}`)
  }
  return { ...(sections.common as Section), ...(sections[spec.name] as Section) }
}

function readYaml(path: string): Section {
  try {
    const document = parseDocument(readFileSync(path, 'utf8'))
    if (document.errors[0]) throw document.errors[0]
    const sections = document.toJS() ?? {}
    if (typeof sections !== 'object' || Array.isArray(sections)) throw new Error('it is not a map of sections')
    return sections as Section
  } catch (error) {
    const absent = (error as NodeJS.ErrnoException).code === 'ENOENT'
    const why = absent
      ? 'it does not exist. Check out the repository before this step, or correct the path'
      : messageOf(error).split('\n')[0]?.replace(/:$/, '')
    throw new InputError('config.unreadable', `input \`config\`: ${path} cannot be read: ${why}`)
  }
}

function requireKnown(name: string, allowed: readonly string[], where: string): void {
  if (allowed.includes(name)) return
  const near = closest(name, [...allowed])
  // At most a third of the letters may be wrong. Anything further away is another word, and misleading.
  const meant = distance(name, near) <= Math.max(1, name.length / 3)
  throw new InputError(
    'config.unknown-name',
    `${where} is not known; ${meant ? `did you mean \`${near}\`?` : 'docs/config.schema.json has all sections and their inputs'}`,
  )
}

/** A suggestion to append to an unknown name. */
export function didYouMean(name: string, known: readonly string[]): string {
  return known.length ? `; did you mean \`${closest(name, [...known])}\`?` : ''
}
