// Generated files, the composite action, and the examples that teams copy must match the specs.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { actionYaml, configSchema, readme } from '../../scripts/metadata.ts'
import { specs } from '../../src/actions/specs.ts'
import { COMMON_OUTPUTS } from '../../src/runtime/action.ts'
import type { ActionSpec } from '../../src/runtime/spec.ts'
import { REPO } from './bundle.ts'

interface Step {
  id?: string
  name?: string
  uses: string
  if?: string
  with: Record<string, unknown>
}

const root = parse(read('action.yml')) as {
  inputs: Record<string, { description: string; required: boolean; default?: string }>
  outputs: Record<string, { description: string; value: string }>
  runs: { steps: Step[] }
}
const { steps } = root.runs

function read(path: string): string {
  return readFileSync(join(REPO, path), 'utf8')
}

function specNamed(name: string | undefined): ActionSpec {
  const spec = specs.find((each) => each.name === name)
  if (!spec) throw new Error(`there is no action ${name}`)
  return spec
}

function specOf(step: Step): ActionSpec {
  return specNamed(/^\$\/actions\/([a-z-]+)$/.exec(step.uses)?.[1])
}

/** Returns the input names in a text's expressions. */
function inputsIn(text: string): string[] {
  return [...text.matchAll(/inputs\.([\w-]+)/g)].map((match) => match[1] as string)
}

describe.each(specs.map((spec) => [spec.name, spec] as const))('actions/%s', (name, spec) => {
  test('action.yml matches the spec', () => {
    expect(read(`actions/${name}/action.yml`)).toBe(actionYaml(spec))
  })

  test('the tables in its README match the spec', () => {
    expect(read(`actions/${name}/README.md`)).toBe(readme(spec, read(`actions/${name}/README.md`)))
  })

  test('runs existing bundles on Node 24, and sets no defaults that would override the config file', () => {
    const { runs, inputs } = parse(read(`actions/${name}/action.yml`))
    expect(runs.using).toBe('node24')
    for (const file of [runs.main, runs.post].filter(Boolean))
      expect(existsSync(join(REPO, 'actions', name, file)), file).toBe(true)
    for (const input of Object.values(inputs)) expect(input).not.toHaveProperty('default')
  })

  test('has valid defaults and descriptions', () => {
    for (const [input, { type, fallback, description, required }] of Object.entries(spec.inputs)) {
      if (fallback !== undefined) expect(type.schema.safeParse(fallback).success, input).toBe(true)
      expect(required && fallback !== undefined, input).toBe(false)
      expect(description, input).toMatch(/\S{3}/)
    }
  })
})

test('every folder in actions/ has a spec', () => {
  expect(readdirSync(join(REPO, 'actions')).sort()).toEqual(specs.map(({ name }) => name).sort())
})

test('the schema of the config file matches the specs', () => {
  expect(read('docs/config.schema.json')).toBe(configSchema(specs))
})

describe('the composite action in the root', () => {
  describe.each(steps.map((step) => [step.id as string, step] as const))('step %s', (_, step) => {
    test('passes only existing inputs, and every required one', () => {
      const { inputs } = specOf(step)
      expect(Object.keys(inputs)).toEqual(expect.arrayContaining(Object.keys(step.with)))
      const required = Object.keys(inputs).filter((name) => inputs[name]?.required)
      expect(Object.keys(step.with)).toEqual(expect.arrayContaining(required))
    })

    test('passes inputs under their own names, including all shared ones', () => {
      const { inputs } = specOf(step)
      for (const [name, value] of Object.entries(step.with))
        if (String(value).includes('${{')) expect(value).toBe(`\${{ inputs.${name} }}`)
      const shared = Object.keys(inputs).filter((name) => name in root.inputs)
      expect(Object.keys(step.with)).toEqual(expect.arrayContaining(shared))
    })
  })

  test('declares, uses and describes every input', () => {
    const used = inputsIn(JSON.stringify(steps))
    expect([...new Set(used)].sort()).toEqual(Object.keys(root.inputs).sort())
    for (const [name, { description, required, default: fallback }] of Object.entries(root.inputs)) {
      expect(description, name).toMatch(/\S{3}/)
      expect(typeof required, name).toBe('boolean')
      expect(fallback, name).toBeUndefined()
    }
  })

  test('requires the inputs that its steps require', () => {
    const required = steps.flatMap((step) => {
      const { inputs } = specOf(step)
      return Object.keys(inputs).filter((name) => inputs[name]?.required && name in root.inputs)
    })
    for (const name of new Set(required)) expect(root.inputs[name]?.required, name).toBe(true)
  })

  // Even if nothing was deferred, because only `finalize` validates foreign keys and drops the slot.
  test('finalizes after every switch', () => {
    const finalize = steps.find(({ id }) => id === 'finalize')
    expect(finalize?.if).toBe(`\${{ steps.cutover.outputs.phase == 'switched' }}`)
  })

  test('has conditions only on existing outputs and inputs', () => {
    for (const { id, if: condition = '' } of steps)
      for (const [, step, output] of condition.matchAll(/steps\.([\w-]+)\.outputs\.([\w-]+)/g)) {
        const at = steps.findIndex((each) => each.id === step)
        expect(at, `${id}: ${condition}`).toBeGreaterThanOrEqual(0)
        expect(at).toBeLessThan(steps.findIndex((each) => each.id === id))
        const { outputs } = specOf(steps[at] as Step)
        expect({ ...outputs, ...COMMON_OUTPUTS }, condition).toHaveProperty([output as string])
      }
  })

  test('states the same defaults as the actions', () => {
    for (const [name, { description }] of Object.entries(root.inputs)) {
      const said = /Default: `([^`]+)`/.exec(description)?.[1]
      const fallbacks = steps.flatMap((step) => specOf(step).inputs[name]?.fallback ?? [])
      if (said) expect(fallbacks, name).toContain(said)
    }
  })

  test('takes its outputs from existing ones, and describes them', () => {
    for (const [name, { value, description }] of Object.entries(root.outputs)) {
      const [, id, output] = /^\$\{\{ steps\.([\w-]+)\.outputs\.([\w-]+) \}\}$/.exec(value) ?? []
      const step = steps.find((each) => each.id === id)
      expect(step, `${name}: ${value}`).toBeDefined()
      expect({ ...specOf(step as Step).outputs, ...COMMON_OUTPUTS }, name).toHaveProperty([output as string])
      expect(description, name).toMatch(/\S{3}/)
    }
  })
})

describe('the README and the small workflow', () => {
  const blocks = [...read('docs/first-workflow.md').matchAll(/```yaml\n([\s\S]*?)```/g)].map(
    (match) => match[1] as string,
  )
  const jobs = blocks.flatMap((block) =>
    Object.values((parse(block) as { jobs: Record<string, { steps: Step[] }> }).jobs),
  )
  const used = jobs.flatMap(({ steps }) => steps).filter(({ uses }) => uses.startsWith('OWNER/REPO'))

  test("the README's workflow checks out the CA certificate named in the URLs", () => {
    for (const { steps } of jobs) expect(steps[0]?.uses).toMatch(/^actions\/checkout@[0-9a-f]{40}$/)
  })

  test("the steps of the README's workflow set every required input and no unknown inputs", () => {
    expect(used.length).toBeGreaterThan(3)
    for (const step of used) {
      const [, name] = /^OWNER\/REPO\/actions\/([a-z-]+)@[0-9a-f]{40}$/.exec(step.uses) ?? []
      const { inputs } = specNamed(name)
      expect(Object.keys(inputs)).toEqual(expect.arrayContaining(Object.keys(step.with)))
      for (const input of Object.keys(inputs)) if (inputs[input]?.required) expect(step.with).toHaveProperty([input])
      for (const [input, value] of Object.entries(step.with))
        if (!String(value).includes('${{'))
          expect(inputs[input]?.type.schema.safeParse(String(value).replace('BUCKET', 'acme')).success, input).toBe(
            true,
          )
    }
  })

  test.each(['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])('%s links only to existing files', (path) => {
    for (const [, target] of read(path).matchAll(/\]\((?!https?:|#)([^)#]+)\)/g))
      expect(existsSync(join(REPO, target as string)), target).toBe(true)
  })

  test.each(['README.md', 'CONTRIBUTING.md'])('%s names only existing scripts', (path) => {
    const { scripts } = JSON.parse(read('package.json'))
    for (const [, script] of read(path).matchAll(/npm run ([\w:-]+)/g))
      expect(scripts).toHaveProperty([script as string])
  })
})
