import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadManifest } from '../../rehearsal/runner/manifest.ts'
import { FIXTURE, repository } from './runner-helpers.ts'

const NODE = 'runs:\n  using: node24\n  main: x.cjs'
const composite = (step: string) => `runs:\n  using: composite\n  steps:\n    - ${step.replaceAll('\n', '\n      ')}`

function load(text: string, files: Record<string, string> = {}) {
  const repo = repository({ 'it/action.yml': `name: it\ndescription: it\n${text}\n`, ...files })
  return loadManifest(join(repo, 'it'), repo)
}

test('reads name, inputs, outputs and steps', () => {
  const manifest = loadManifest(FIXTURE, FIXTURE)
  expect(manifest).toMatchObject({ name: 'Chain', runs: { kind: 'composite' } })
  expect(manifest.inputs.map(({ id, required, description }) => [id, required, description])).toEqual([
    ['text', false, 'Goes through the chain.'],
    ['fail', false, 'Makes the second step fail.'],
  ])
  const steps = manifest.runs.kind === 'composite' ? manifest.runs.steps : []
  expect(steps.map(({ id, uses, if: condition }) => [id, uses, condition])).toEqual([
    ['first', '$/actions/js', 'success()'],
    ['second', '$/actions/js', 'success()'],
    ['skipped', undefined, "success() && (steps.second.outcome == 'failure' && false)"],
    ['script', undefined, 'success()'],
    ['last', '$/actions/plain', 'success()'],
  ])
  expect(load(NODE).runs).toEqual({
    kind: 'node',
    using: 'node24',
    main: 'x.cjs',
    preIf: 'always()',
    postIf: 'always()',
  })
})

describe('refuses and reports the position', () => {
  test.each<[what: string, text: string, message: RegExp]>([
    ['not YAML', `${NODE}\n  a: [`, /it\/action.yml: .* at line 7, column 1/],
    ['an unknown key', `${NODE}\nruntime: x`, /action.yml \(Line: 6, Col: 1\): Unexpected value 'runtime'/],
    ['an unknown key of runs', `${NODE}\n  mian: x`, /Unexpected value 'mian'/],
    ['an unknown key of an input', `inputs:\n  a:\n    defualt: 1\n${NODE}`, /'defualt' in input 'a'/],
    ['an unknown key of a step', composite('run: x\nshell: bash\ntimeout: 1'), /Unexpected value 'timeout'/],
    ['a key twice', `${NODE}\n  main: y`, /'main' is already defined/],
    ['no main', 'runs:\n  using: node24\n  pre: x', /Required property is missing: main/],
    ['docker', 'runs:\n  using: docker\n  image: x', /'using: docker' is not supported/],
    ['an old node', 'runs:\n  using: node16\n  main: x', /'using: node16' is not supported/],
    ['an unknown runtime', 'runs:\n  using: node99\n  main: x', /Unexpected value 'node99'/],
    ['another repository', composite('uses: actions/checkout@v4'), /uses: actions\/checkout@v4 is not supported/],
    ['a docker step', composite('uses: docker://alpine'), /docker:\/\/alpine is not supported/],
    ['a missing sibling', composite('uses: $/actions/none'), /actions\/none has no action.yml/],
    ['a path outside the repository', composite('uses: $/../x'), /leaves the repository/],
    ['another shell', composite('run: x\nshell: pwsh'), /shell: pwsh is not supported/],
    ['no shell', composite('run: x'), /Required property is missing: shell/],
    ['secrets', composite(`run: \${{ secrets.X }}\nshell: bash`), /Unrecognized named-value: 'secrets'/],
    ['an unknown function', composite(`run: \${{ now() }}\nshell: bash`), /Unrecognized function: 'now'/],
    [
      'hashFiles',
      composite(`run: \${{ hashFiles('x') }}\nshell: bash`),
      /Unrecognized function: 'hashFiles'.*not supported/,
    ],
    ['hashFiles in a condition', composite("if: hashFiles('x') != ''\nrun: x\nshell: bash"), /hashFiles/],
    ['a faulty condition', composite('if: steps.\nrun: x\nshell: bash'), /Unexpected/],
    [
      'a status function in a value',
      composite(`run: \${{ always() }}\nshell: bash`),
      /Unrecognized function: 'always'/,
    ],
    ['a faulty post-if', `${NODE}\n  post: y\n  post-if: steps.x`, /Unrecognized named-value: 'steps'/],
    ['an unclosed expression', composite(`run: \${{ 1\nshell: bash`), /not closed/],
    [
      'an expression as a key',
      composite(`run: x\nshell: bash\nenv:\n  \${{ github.job }}: x`),
      /as a key is not supported/,
    ],
    ['a bad id', composite('id: a b\nrun: x\nshell: bash'), /identifier 'a b' is invalid/],
    [
      'inputs in a default',
      `inputs:\n  a:\n    default: \${{ inputs.b }}\n${NODE}`,
      /Unrecognized named-value: 'inputs'/,
    ],
    ['background steps', composite('run: x\nshell: bash\nbackground: true'), /Unexpected value 'background'/],
  ])('%s', (_what, text, message) => {
    expect(() => load(text)).toThrow(message)
  })

  test('a duplicate id', () => {
    const step = 'id: a\n      run: x\n      shell: bash'
    expect(() => load(`runs:\n  using: composite\n  steps:\n    - ${step}\n    - ${step.replace('a', 'A')}`)).toThrow(
      /'A' may not be used more than once/,
    )
  })

  test('errors in a used action, before anything runs', () => {
    const files = { 'actions/broken/action.yml': `name: b\ndescription: b\n${NODE}\n  extra: 1\n` }
    expect(() => load(composite('uses: $/actions/broken'), files)).toThrow(/actions\/broken\/action.yml.*'extra'/)
  })

  test('an action that uses itself', () => {
    expect(() => load(composite('uses: $/it'))).toThrow(/nested more than 9 levels deep/)
  })

  test('a folder without an action, or with only a Dockerfile', () => {
    const repo = repository({ 'd/Dockerfile': 'FROM x' })
    expect(() => loadManifest(join(repo, 'none'), repo)).toThrow(/has no action.yml/)
    expect(() => loadManifest(join(repo, 'd'), repo)).toThrow(/docker actions are not supported/)
  })

  test('all errors at once', () => {
    expect(() => load(`${NODE}\na: 1\nb: 2`)).toThrow(/'a'[\s\S]*'b'/)
  })
})
