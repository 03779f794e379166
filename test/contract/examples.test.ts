// Checks the example steps in the documents against the actions' specs and with GitHub's language service.
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { validate } from '@actions/languageservice'
import { describe, expect, test } from 'vitest'
import { TextDocument } from 'vscode-languageserver-textdocument'
import { parse, stringify } from 'yaml'
import { specs } from '../../src/actions/specs.ts'
import { COMMON_OUTPUTS } from '../../src/runtime/action.ts'

interface Step {
  id?: string
  uses: string
  with?: Record<string, unknown>
}

const REPO = resolve(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(REPO, path), 'utf8')
const documents = [
  ...specs.map(({ name }) => `actions/${name}/README.md`),
  ...readdirSync(join(REPO, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
]
const examples = documents.flatMap((path) => stepsIn(read(path)).map((steps) => [path, steps] as const))

/** Returns each YAML block that is a list of steps. Blocks inside list items are indented. */
function stepsIn(text: string): Step[][] {
  return [...text.matchAll(/^( *)```yaml\n([\s\S]*?)^ *```$/gm)]
    .map(([, indent = '', block = '']) => parse(block.replaceAll(new RegExp(`^${indent}`, 'gm'), '')))
    .filter((steps) => Array.isArray(steps) && steps.some((step) => step?.uses))
}

function specOf({ uses }: Step) {
  const name = /^OWNER\/REPO\/actions\/([a-z-]+)@/.exec(uses)?.[1]
  return name === undefined ? undefined : specs.find((spec) => spec.name === name)
}

/** Returns what GitHub's language service reports about these steps, in a job with `needs: brief`. */
async function problems(steps: readonly Step[]): Promise<string[]> {
  const pinned = steps.map((step) => ({ ...step, uses: step.uses.replace(/@.*/, `@${'0'.repeat(40)}`) }))
  const job = { 'runs-on': 'ubuntu-24.04', needs: 'brief', steps: pinned }
  const brief = {
    'runs-on': 'ubuntu-24.04',
    outputs: { 'plan-hash': `\${{ steps.brief.outputs.plan-hash }}` },
    steps: [{ id: 'brief', uses: `OWNER/REPO/actions/brief@${'0'.repeat(40)}` }],
  }
  const text = stringify({ on: 'workflow_dispatch', jobs: { brief, example: job } })
  const found = await validate(TextDocument.create(`file:///${text.length}.yml`, 'yaml', 1, text))
  return found.map(({ message }) => String(message))
}

test.each(specs.map(({ name }) => name))('the README of %s begins with a usage example', (name) => {
  const [usage] = stepsIn(read(`actions/${name}/README.md`).split('## Usage')[1] ?? '')
  expect(usage?.some((step) => specOf(step)?.name === name)).toBe(true)
})

describe.each(examples)('%s', (_, steps) => {
  test('every step uses an existing action, existing inputs, and accepted values', () => {
    for (const step of steps.filter(({ uses }) => uses.startsWith('OWNER/REPO/'))) {
      const spec = specOf(step)
      expect(spec, step.uses).toBeDefined()
      const inputs = spec?.inputs ?? {}
      const given = step.with ?? {}
      expect(Object.keys(inputs)).toEqual(expect.arrayContaining(Object.keys(given)))
      for (const [name, { required }] of Object.entries(inputs))
        if (required) expect(given, `${step.uses} needs ${name}`).toHaveProperty(name)
      for (const [name, value] of Object.entries(given))
        if (!String(value).includes('${{'))
          expect(inputs[name]?.type.schema.safeParse(String(value)).success, `${name}: ${value}`).toBe(true)
    }
  })

  test('reads only existing outputs', () => {
    const ids = new Map(steps.flatMap((step) => (step.id ? [[step.id, specOf(step)] as const] : [])))
    for (const [, id = '', output] of JSON.stringify(steps).matchAll(/steps\.([\w-]+)\.outputs\.([\w-]+)/g))
      expect({ ...ids.get(id)?.outputs, ...COMMON_OUTPUTS }, id).toHaveProperty(String(output))
  })

  test("is valid for GitHub's language service", async () => {
    expect(await problems(steps)).toEqual([])
  })
})

test('finds an unknown context', async () => {
  expect(await problems([{ uses: 'a/b@c', with: { x: `\${{ secret.X }}` } }])).not.toEqual([])
})
