import { existsSync, readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { data, Evaluator, Lexer, Parser } from '@actions/expressions'
import type { FunctionDefinition } from '@actions/expressions/funcs/info'
import { TokenType } from '@actions/expressions/lexer'
import { truthy } from '@actions/expressions/result'
import { ACTION_ROOT } from '@actions/workflow-parser/actions/action-constants'
import { getActionSchema } from '@actions/workflow-parser/actions/action-schema'
import { type ActionTemplate, convertActionTemplate } from '@actions/workflow-parser/actions/action-template'
import type { Step as ParsedStep } from '@actions/workflow-parser/model/workflow-template'
import { TemplateContext, TemplateValidationErrors } from '@actions/workflow-parser/templates/template-context'
import { readTemplate } from '@actions/workflow-parser/templates/template-reader'
import {
  type LiteralToken,
  type MappingToken,
  type ScalarToken,
  StringToken,
  TemplateToken,
} from '@actions/workflow-parser/templates/tokens/index'
import {
  isBasicExpression,
  isBoolean,
  isMapping,
  isScalar,
  isSequence,
  isString,
} from '@actions/workflow-parser/templates/tokens/type-guards'
import { NoOperationTraceWriter } from '@actions/workflow-parser/templates/trace-writer'
import { YamlObjectReader } from '@actions/workflow-parser/workflows/yaml-object-reader'
import { UserError } from '../../src/runtime/errors.ts'

/** A parsed action.yml, with every action of the same repository that it uses. */
export interface Manifest {
  dir: string
  name: string
  description: string
  inputs: Input[]
  outputs: { id: string; value?: TemplateToken }[]
  runs: NodeRuns | CompositeRuns
}

export interface Input {
  id: string
  description: string
  required: boolean
  default?: TemplateToken
  deprecation?: string
}

export interface NodeRuns {
  kind: 'node'
  using: string
  main: string
  pre?: string
  preIf: string
  post?: string
  postIf: string
}

interface CompositeRuns {
  kind: 'composite'
  steps: Step[]
}

/** One step of a composite action. The object's identity identifies the step during a job. */
export interface Step {
  id?: string
  name?: TemplateToken
  /** Condition with a status function; `success()` by default. */
  if: string
  continueOnError?: TemplateToken
  env?: MappingToken
  run?: { script: TemplateToken; shell: TemplateToken; workingDirectory?: TemplateToken }
  uses?: string
  with?: MappingToken
  /** The action in `uses`. `./path` is not read until the step runs, because an earlier step may create it. */
  action?: Manifest
}

/** GitHub's maximum nesting of composite actions. */
const MAX_DEPTH = 9
const SHELLS = ['bash', 'sh']
const INPUT_KEYS = ['description', 'required', 'default', 'deprecationMessage']
const CONTEXTS = ['github', 'inputs', 'steps', 'env', 'runner', 'job', 'strategy', 'matrix']
const STATUS_FUNCTIONS = ['success', 'failure', 'always', 'cancelled'] as const
const STATUS_INFO = STATUS_FUNCTIONS.map((name) => ({ name, minArgs: 0, maxArgs: 0 }))

/**
 * Cache: path → manifest, and the text that it was parsed from. Excludes composite actions, whose step objects belong
 * to a single job.
 */
const known = new Map<string, { text: string; manifest: Manifest }>()

/**
 * Reads the action.yml (or action.yaml) in `dir`, and everything that it uses as `$/path`, a folder of `repo`.
 * @throws UserError with file, line and column of everything that GitHub would refuse or this runner does not support
 */
export function loadManifest(dir: string, repo: string, depth = 0): Manifest {
  if (depth > MAX_DEPTH)
    throw new UserError('runner.unsupported', `${dir}: composite actions are nested more than ${MAX_DEPTH} levels deep`)
  const path = ['action.yml', 'action.yaml'].map((name) => join(dir, name)).find((each) => existsSync(each))
  if (!path && existsSync(join(dir, 'Dockerfile')))
    throw new UserError('runner.unsupported', `${dir}: docker actions are not supported here`)
  if (!path)
    throw new UserError(
      'runner.action-missing',
      `${dir} has no action.yml. Check the path, and that a local action is checked out`,
    )
  const text = readFileSync(path, 'utf8')
  const last = known.get(path)
  if (last?.text === text) return last.manifest
  const context = new TemplateContext(new TemplateValidationErrors(), getActionSchema(), new NoOperationTraceWriter())
  const root = readRoot(context, relative(repo, path) || path, text)
  const template = root && convertActionTemplate(context, root)
  const runs = root && template && context.errors.count === 0 ? convertRuns(context, root, template) : undefined
  const errors = context.errors.getErrors()
  if (!root || !template || !runs || errors.length > 0)
    throw new UserError('runner.invalid-action', errors.map((error) => error.message).join('\n') || `${path} is empty`)
  if (runs.kind === 'composite') for (const step of runs.steps) loadUsed(step, repo, depth)
  const manifest: Manifest = {
    dir,
    name: template.name,
    description: template.description,
    inputs: convertInputs(template),
    outputs: (template.outputs ?? []).map(({ id, value }) => (value ? { id, value } : { id })),
    runs,
  }
  if (runs.kind !== 'composite') known.set(path, { text, manifest })
  return manifest
}

function loadUsed(step: Step, repo: string, depth: number): void {
  if (!step.uses?.startsWith('$/')) return
  const dir = resolve(repo, step.uses.slice(2))
  if (relative(repo, dir).startsWith('..'))
    throw new UserError('runner.outside-repository', `uses: ${step.uses} leaves the repository`)
  step.action = loadManifest(dir, repo, depth + 1)
}

/** Whether `uses` is `./path`, an action in the workspace. */
export function isLocal(step: Step): boolean {
  return step.uses?.startsWith('./') ?? false
}

export function hasPre({ action }: Step): boolean {
  if (action?.runs.kind === 'composite') return action.runs.steps.some((step) => !isLocal(step) && hasPre(step))
  return action?.runs.pre !== undefined
}

/** Whether the step may have a post phase. A local action that was not read yet might have one. */
export function hasPost(step: Step): boolean {
  if (!step.uses) return false
  if (!step.action) return isLocal(step)
  if (step.action.runs.kind === 'composite') return step.action.runs.steps.some(hasPost)
  return step.action.runs.post !== undefined
}

/**
 * Reads scalars without their `source`. The parser is made for editors, and would otherwise return a block scalar with
 * expressions in its original indentation.
 */
class ValueReader extends YamlObjectReader {
  override allowLiteral(): LiteralToken | undefined {
    const token = super.allowLiteral()
    return token && isString(token)
      ? new StringToken(token.file, token.range, token.value, token.definitionInfo)
      : token
  }
}

function readRoot(context: TemplateContext, name: string, content: string): MappingToken | undefined {
  const file = context.getFileId(name)
  const reader = new ValueReader(file, content)
  for (const error of reader.errors) context.error(file, error.message, error.range)
  if (reader.errors.length > 0) return undefined
  const root = readTemplate(context, ACTION_ROOT, reader, file)
  if (!root || !isMapping(root)) return undefined
  for (const [, token, key] of TemplateToken.traverse(root)) check(context, token, key)
  for (const { key, value } of childOf(root, 'inputs') ?? []) {
    for (const property of isMapping(value) ? value : [])
      if (!INPUT_KEYS.includes(property.key.toString()))
        context.error(property.key, `Unexpected value '${property.key.toString()}' in input '${key.toString()}'`)
  }
  return root
}

/** Reports features that the parser accepts but this runner does not support. */
function check(context: TemplateContext, token: TemplateToken, key: TemplateToken | undefined): void {
  if (key?.isExpression) context.error(key, 'An expression as a key is not supported by the local runner')
  if (!isBasicExpression(token)) return
  attempt(context, token, () => compile(token.expression))
}

function attempt(context: TemplateContext, token: TemplateToken | undefined, work: () => unknown): void {
  try {
    work()
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    const hint = /unrecognized function/i.test(message) ? ' (not supported by the local runner, or misspelt)' : ''
    context.error(token, `${message}${hint}`)
  }
}

function childOf(mapping: MappingToken, key: string): MappingToken | undefined {
  const child = mapping.find(key)
  return child && isMapping(child) ? child : undefined
}

function convertInputs(template: ActionTemplate): Input[] {
  return (template.inputs ?? []).map((input) => {
    const result: Input = { id: input.id, description: input.description ?? '', required: input.required ?? false }
    if (input.default) result.default = input.default
    if (input.deprecationMessage) result.deprecation = input.deprecationMessage
    return result
  })
}

function convertRuns(
  context: TemplateContext,
  root: MappingToken,
  template: ActionTemplate,
): Manifest['runs'] | undefined {
  const token = childOf(root, 'runs') as MappingToken
  const using = token.find('using')?.toString() ?? ''
  const { runs } = template
  if (using === 'composite' && runs.using === 'composite') return convertSteps(context, token, runs.steps)
  if ((using === 'node20' || using === 'node24') && runs.using === using) {
    const result: NodeRuns = {
      kind: 'node',
      using,
      main: runs.main,
      preIf: runs.preIf ?? 'always()',
      postIf: runs.postIf ?? 'always()',
    }
    if (runs.pre) result.pre = runs.pre
    if (runs.post) result.post = runs.post
    for (const key of ['pre-if', 'post-if'] as const)
      attempt(context, token.find(key), () => compile(key === 'pre-if' ? result.preIf : result.postIf))
    return result
  }
  context.error(token, `'using: ${using}' is not supported by the local runner; it runs node20, node24 and composite`)
  return undefined
}

function convertSteps(context: TemplateContext, runs: MappingToken, parsed: ParsedStep[]): CompositeRuns {
  const sequence = runs.find('steps')
  const tokens = sequence && isSequence(sequence) ? [...sequence].filter(isMapping) : []
  const ids = new Set<string>()
  const steps = tokens.map((token, index) => {
    const step = convertStep(context, token, parsed[index] as ParsedStep)
    if (!step.id) return step
    if (!/^[a-z_][\w-]*$/i.test(step.id) || step.id.startsWith('__'))
      context.error(token.find('id'), `The identifier '${step.id}' is invalid: letters, digits, - and _, no leading __`)
    if (ids.has(step.id.toLowerCase()))
      context.error(
        token.find('id'),
        `The identifier '${step.id}' may not be used more than once within the same scope`,
      )
    ids.add(step.id.toLowerCase())
    return step
  })
  return { kind: 'composite', steps }
}

function convertStep(context: TemplateContext, token: MappingToken, parsed: ParsedStep): Step {
  const step: Step = { if: parsed.if?.expression ?? 'success()' }
  attempt(context, token.find('if'), () => compile(step.if))
  if (parsed.id) step.id = parsed.id
  const optional = { name: token.find('name'), continueOnError: token.find('continue-on-error') }
  if (optional.name) step.name = optional.name
  if (optional.continueOnError) step.continueOnError = optional.continueOnError
  const env = childOf(token, 'env')
  if (env) step.env = env
  if ('run' in parsed) {
    step.run = { script: parsed.run, shell: token.find('shell') as TemplateToken }
    const workingDirectory = token.find('working-directory')
    if (workingDirectory) step.run.workingDirectory = workingDirectory
    if (!isBasicExpression(step.run.shell))
      attempt(context, step.run.shell, () => requireShell(String(step.run?.shell)))
    return step
  }
  step.uses = (parsed as { uses: ScalarToken }).uses.toString()
  if (!/^(\$|\.)\//.test(step.uses))
    context.error(
      token.find('uses'),
      `uses: ${step.uses} is not supported by the local runner; it runs $/path and ./path`,
    )
  const given = childOf(token, 'with')
  if (given) step.with = given
  return step
}

/** @throws UserError for a shell other than bash and sh */
export function requireShell(shell: string): void {
  if (!SHELLS.includes(shell))
    throw new UserError(
      'runner.unsupported',
      `shell: ${shell} is not supported by the local runner; it has bash and sh`,
    )
}

export type Status = 'success' | 'failure' | 'cancelled'

/** Values that expressions can refer to: the contexts by name, and the results of the status functions. */
export interface Scope {
  contexts: Record<string, unknown>
  /** The composite action's status so far, or the job's. Determines `success()` and `failure()`. */
  status: Status
  /** Determines `cancelled()`. */
  cancelled: boolean
}

function compile(expression: string) {
  const { tokens } = new Lexer(expression).lex()
  // The lexer unescapes only the first '' in a string. GitHub unescapes all of them.
  for (const token of tokens)
    if (token.type === TokenType.STRING) token.value = token.lexeme.slice(1, -1).replaceAll("''", "'")
  return new Parser(tokens, CONTEXTS, STATUS_INFO).parse()
}

function evaluate(expression: string, scope: Scope): data.ExpressionData {
  const contexts = new data.Dictionary()
  for (const name of CONTEXTS) contexts.add(name, toData(scope.contexts[name] ?? null, name === 'env'))
  return new Evaluator(compile(expression), contexts, statusFunctions(scope)).evaluate()
}

function statusFunctions({ status, cancelled }: Scope): Map<string, FunctionDefinition> {
  const answers = { success: status === 'success', failure: status === 'failure', always: true, cancelled }
  return new Map(
    STATUS_INFO.map((info) => [info.name, { ...info, call: () => new data.BooleanData(answers[info.name]) }]),
  )
}

/** A context with case-sensitive names: environment variables. All other contexts ignore case. */
class CaseSensitiveDictionary extends data.Dictionary {
  readonly #entries = new Map<string, data.ExpressionData>()
  override add(key: string, value: data.ExpressionData): void {
    this.#entries.set(key, value)
  }
  override get(key: string): data.ExpressionData | undefined {
    return this.#entries.get(key)
  }
  override values(): data.ExpressionData[] {
    return [...this.#entries.values()]
  }
  override pairs() {
    return [...this.#entries].map(([key, value]) => ({ key, value }))
  }
}

function toData(value: unknown, caseSensitive = false): data.ExpressionData {
  if (value === null || value === undefined) return new data.Null()
  if (typeof value === 'boolean') return new data.BooleanData(value)
  if (typeof value === 'number') return new data.NumberData(value)
  if (typeof value === 'string') return new data.StringData(value)
  if (Array.isArray(value)) return new data.Array(...value.map((each) => toData(each)))
  const dictionary = caseSensitive ? new CaseSensitiveDictionary() : new data.Dictionary()
  for (const [key, each] of Object.entries(value)) dictionary.add(key, toData(each))
  return dictionary
}

/** @throws Error if the expression cannot be evaluated */
export function evaluateCondition(expression: string, scope: Scope): boolean {
  return truthy(evaluate(expression, scope))
}

/** @throws Error if the value is not a scalar, or its expression cannot be evaluated */
export function evaluateString(token: TemplateToken | undefined, scope: Scope): string {
  if (!token) return ''
  if (!isBasicExpression(token)) {
    if (isScalar(token)) return token.toString()
    throw new Error('A scalar was expected')
  }
  const result = evaluate(token.expression, scope)
  if (result.kind === data.Kind.Array) throw new Error('A sequence was not expected')
  if (result.kind === data.Kind.Dictionary) throw new Error('A mapping was not expected')
  return result.coerceString()
}

/** @throws Error if the value is not a boolean */
export function evaluateBoolean(token: TemplateToken | undefined, scope: Scope): boolean {
  if (!token) return false
  if (isBoolean(token)) return token.value
  const result = isBasicExpression(token) ? evaluate(token.expression, scope) : undefined
  if (result?.kind === data.Kind.Boolean) return (result as data.BooleanData).value
  throw new Error(`Unexpected value '${result?.coerceString() ?? token.toString()}'`)
}

/** @throws Error if a value cannot be evaluated */
export function evaluateMapping(token: MappingToken | undefined, scope: Scope): Record<string, string> {
  const result: Record<string, string> = {}
  for (const { key, value } of token ?? []) result[key.toString()] = evaluateString(value, scope)
  return result
}
