import { stringify } from 'yaml'
import { COMMON_OUTPUTS } from '../src/runtime/action.ts'
import type { ActionSpec, InputSpec } from '../src/runtime/spec.ts'

const NOTE = '# Generated from src/actions/{name}/spec.ts by `npm run build`. Edit the source instead.\n'

/**
 * Mentions defaults only in descriptions. The runner would pass a `default:` as an input, which would override the
 * config file.
 */
export function actionYaml(spec: ActionSpec): string {
  const inputs = mapValues(spec.inputs, (input) => ({ description: describe(input), required: input.required }))
  const outputs = mapValues({ ...spec.outputs, ...COMMON_OUTPUTS }, (description) => ({ description }))
  const runs = {
    using: 'node24',
    main: `../../dist/${spec.name}.cjs`,
    ...(spec.post && { post: `../../dist/${spec.name}-post.cjs`, 'post-if': 'always()' }),
  }
  const action = {
    name: spec.title,
    description: spec.description,
    author: 'molt-actions',
    branding: { icon: spec.icon, color: 'blue' },
    inputs,
    outputs,
    runs,
  }
  return NOTE.replace('{name}', spec.name) + stringify(action, { lineWidth: 0 })
}

function describe(input: InputSpec<unknown>): string {
  const fallback = input.fallback === undefined ? '' : ` Default: \`${input.fallback}\`.`
  return `${input.description}${fallback}`
}

const BEGIN = '<!-- generated: inputs and outputs -->'
const END = '<!-- end of generated -->'

/** The action's README with new tables. Text outside of them is unchanged. */
export function readme(spec: ActionSpec, current: string | undefined): string {
  const tables = [
    BEGIN,
    '## Inputs',
    '',
    '| input | what it is | allowed |',
    '| --- | --- | --- |',
    ...Object.entries(spec.inputs).map(
      ([name, input]) =>
        `| \`${name}\`${input.required ? ' (required)' : ''} | ${cell(describe(input))} | ${cell(input.type.hint)} |`,
    ),
    '',
    '## Outputs',
    '',
    '| output | what it is |',
    '| --- | --- |',
    ...Object.entries({ ...spec.outputs, ...COMMON_OUTPUTS }).map(([name, text]) => `| \`${name}\` | ${cell(text)} |`),
    END,
  ].join('\n')
  const text = current ?? `# ${spec.name}\n\n${spec.description}\n\n${BEGIN}\n${END}\n`
  return text.slice(0, text.indexOf(BEGIN)) + tables + text.slice(text.indexOf(END) + END.length)
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

/** JSON Schema of the config file that the input `config` names, for editors. */
export function configSchema(specs: readonly ActionSpec[]): string {
  const sections = Object.fromEntries(specs.map((spec) => [spec.name, section(spec.inputs)]))
  const common = section(Object.assign({}, ...specs.map((spec) => spec.inputs)))
  const schema = {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'molt-actions configuration',
    type: 'object',
    additionalProperties: false,
    properties: { common: { ...common, description: 'Settings of every action that has them.' }, ...sections },
  }
  return `${JSON.stringify(schema, null, 2)}\n`
}

function section(inputs: Record<string, InputSpec<unknown>>) {
  const named = Object.entries(inputs).filter(([name]) => name !== 'config')
  return {
    type: 'object',
    additionalProperties: false,
    properties: Object.fromEntries(
      named.map(([name, input]) => [
        name,
        input.type.secret
          ? {
              type: 'string',
              pattern: '^env:[A-Za-z_]\\w*$',
              description: `${describe(input)} Write env:NAME for the environment variable that holds it.`,
            }
          : { ...input.type.json, description: describe(input) },
      ]),
    ),
  }
}

function mapValues<T, U>(map: Record<string, T>, change: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [key, change(value)]))
}
