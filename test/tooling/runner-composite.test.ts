import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { FIXTURE, messages, ran, repository, runSteps, stepOf } from './runner-helpers.ts'

const chain = (inputs: Record<string, string> = {}) =>
  runAction({ dir: FIXTURE, repo: FIXTURE, inputs, github: { run_id: '77' } })

describe('a composite action', () => {
  test('runs pre steps first, then all steps, then post steps in reverse', async () => {
    const result = await chain({ text: 'hi' })
    expect(result).toMatchObject({ conclusion: 'success', orphans: [] })
    expect(result.outputs).toEqual({ text: '77 hi and skipped', outcome: 'success/success' })
    expect(ran(result)).toEqual([
      ...['pre first', 'pre second', 'main first', 'main second', 'main script', 'main last'],
      ...['post second', 'post first'],
    ])
    expect(stepOf(result, 'script').log).toContain('later is line 1\nline 2\n')
    expect(stepOf(result, 'first')).toMatchObject({ name: 'First hi', depth: 1, action: '$/actions/js' })
    expect(stepOf(result, 'first', 'post').log).toBe('Post job cleanup.\npost of first\n')
  })

  test("continue-on-error turns a failed step's conclusion into success, but not its outcome", async () => {
    const result = await chain({ fail: 'true' })
    expect(result).toMatchObject({ conclusion: 'success', outputs: { outcome: 'failure/success' } })
    expect(stepOf(result, 'second')).toMatchObject({ outcome: 'failure', conclusion: 'success', exitCode: 3 })
  })

  test('a failed step skips later steps except failure() and always(), and post steps run even after only a pre step', async () => {
    const result = await runSteps(`
- id: ok
  uses: $/actions/js
  with: { post: say('ok cleaned') }
- id: red
  uses: $/actions/js
  with: { main: process.exit(4), post: say('red cleaned') }
- id: next
  uses: $/actions/js
- id: on-failure
  if: failure() && steps.red.outcome == 'failure'
  run: echo failed
  shell: sh
- id: on-cancel
  if: cancelled()
  run: exit 1
  shell: bash
- id: final
  if: \${{ always() }}
  run: echo final
  shell: bash`)
    expect(result.conclusion).toBe('failure')
    expect(ran(result)).toEqual([
      ...[
        'pre ok',
        'pre red',
        'pre next',
        'main ok',
        'main red',
        'main on-failure',
        'main final',
        'post next',
        'post red',
        'post ok',
      ],
    ])
    expect(stepOf(result, 'next').outcome).toBe('skipped')
  })

  test("provides inputs, every level's env, runner and github, and lets an outer env override GITHUB_ENV", async () => {
    const header = 'inputs:\n  Name:\n    description: n\n    default: dflt'
    const result = await runSteps(
      `
- id: set
  run: |
    echo "LEVEL=from file" >> "$GITHUB_ENV"
    echo "FILE=from file" >> "$GITHUB_ENV"
  shell: bash
- id: show
  env:
    LEVEL: step
    COPY: \${{ env.JOB }}-\${{ env.FILE }}-\${{ env.job }}-
  run: echo "$LEVEL $FILE $JOB $COPY \${{ env.LEVEL }} \${{ inputs.name }} \${{ runner.os != '' }} \${{ matrix.x }}$INPUT_NAME" "$GITHUB_ACTION_PATH"
  shell: bash`,
      { header, env: { JOB: 'j', LEVEL: 'job' } },
    )
    expect(stepOf(result, 'show').log).toMatch(/step from file j j-from file-- step dflt true {2}\/\S+\/chain\n$/)
  })

  test('passes numbers and booleans to a step as text, and refuses objects', async () => {
    const result = await runSteps(`
- id: show
  uses: $/actions/plain
  with: { text: 0x10, flag: true }
- id: json
  uses: $/actions/plain
  with:
    text: \${{ join(fromJSON('[1, "a"]'), '+') }}
- id: bad
  uses: $/actions/plain
  with:
    text: \${{ steps.show.outputs }}`)
    expect(stepOf(result, 'show').outputs).toEqual({ text: '16' })
    expect(stepOf(result, 'json').outputs).toEqual({ text: '1+a' })
    expect(messages(stepOf(result, 'bad'))).toEqual(['error: A mapping was not expected'])
  })

  test('keeps quotes and braces in a text with expressions', async () => {
    const result = await runSteps(`
- id: show
  run: |
    cat <<'EOF'
      it's 'quoted' {0} \${{ 'it''s ''x''' }} }}
    EOF
  shell: bash`)
    expect(stepOf(result, 'show').log.split('##[endgroup]\n')[1]).toBe("  it's 'quoted' {0} it's 'x' }}\n")
  })

  test('a script runs in its working directory, and stops at its first error, even in a pipe', async () => {
    const result = await runSteps(`
- id: pipe
  continue-on-error: \${{ inputs.none == null }}
  run: |
    false | true
    echo not here
  shell: bash
- id: folder
  working-directory: ../workspace
  run: pwd
  shell: sh`)
    expect(stepOf(result, 'pipe')).toMatchObject({ exitCode: 1, conclusion: 'success' })
    expect(stepOf(result, 'pipe').log.split('##[endgroup]\n')[1]).toBe('##[error]Process completed with exit code 1.\n')
    expect(stepOf(result, 'folder').log).toMatch(/\/workspace\n$/)
  })

  test("evaluates post-if and pre-if against the job's status", async () => {
    const repo = repository({
      'actions/careful/action.yml':
        'name: c\ndescription: c\nruns:\n  using: node24\n  pre: ../js/pre.cjs\n  pre-if: false\n  main: ../js/main.cjs\n  post: ../js/post.cjs\n  post-if: failure()\n',
      'a/action.yml': `name: a\ndescription: a\ninputs:\n  exit:\n    description: e\nruns:\n  using: composite\n  steps:\n    - id: c\n      uses: $/actions/careful\n    - run: exit \${{ inputs.exit }}\n      shell: bash\n`,
    })
    const run = (exit: string) => runAction({ dir: join(repo, 'a'), repo, inputs: { exit } })
    expect(ran(await run('0'))).toEqual(['main c', 'main Run exit 0'])
    expect(ran(await run('1'))).toEqual(['main c', 'main Run exit 1', 'post c'])
  })

  test('a nested composite action has its own scope and post steps', async () => {
    const repo = repository({
      'outer/action.yml': `
name: outer
description: o
outputs:
  text: { value: '\${{ steps.inner.outputs.text }}|\${{ steps.first.outputs.seen }}|' }
runs:
  using: composite
  steps:
    - id: before
      uses: $/actions/js
      with: { post: say('before') }
    - id: inner
      uses: $/
      with:
        text: nested
    - id: after
      uses: $/actions/js
      with: { post: "say('after \${{ steps.inner.outputs.text }}')" }
`,
    })
    const result = await runAction({ dir: join(repo, 'outer'), repo, inputs: {}, github: { run_id: '5' } })
    expect(result).toMatchObject({ conclusion: 'success', outputs: { text: '5 nested and skipped||' } })
    expect(result.steps.filter(({ phase, depth }) => phase === 'post' && depth > 0).map(({ id }) => id)).toEqual([
      ...['after', 'inner', 'second', 'first', 'before'],
    ])
    expect(stepOf(result, 'after', 'post').log).toContain('after 5 nested and skipped')
  })

  test('looks for a local action in the workspace when its step runs, and does not run its pre', async () => {
    const result = await runSteps(`
- run: mkdir -p made && cp -r "$GITHUB_ACTION_PATH/../actions/js/." made
  shell: bash
- id: local
  uses: ./made
  with: { main: say('pre?' + phase), post: say('local post') }
- id: missing
  uses: ./nowhere`)
    expect(stepOf(result, 'local').log).toMatch(
      /##\[warning\]`pre` execution is not supported for local action from '.\/made'/,
    )
    expect(messages(stepOf(result, 'missing'))[0]).toMatch(/nowhere has no action.yml/)
    expect(ran(result)).toContain('post local')
  })

  test('a failing expression fails its step, and a failing condition ends the action', async () => {
    const bad = `\${{ fromJSON('{') }}`
    const result = await runSteps(`
- id: env
  continue-on-error: true
  env: { A: "${bad}" }
  run: echo "ran with A=$A."
  shell: bash
- id: with
  continue-on-error: true
  uses: $/actions/plain
  with: { text: "${bad}" }
- id: cond
  if: fromJSON('{')
  run: echo no
  shell: bash
- id: last
  if: always()
  run: echo no
  shell: bash`)
    expect(stepOf(result, 'env')).toMatchObject({ outcome: 'failure', log: expect.stringContaining('ran with A=.') })
    expect(stepOf(result, 'with')).toMatchObject({ outcome: 'failure', exitCode: null })
    expect(stepOf(result, 'cond')).toMatchObject({ outcome: 'failure', exitCode: null })
    expect(result.steps.some(({ id }) => id === 'last')).toBe(false)
    expect(result.conclusion).toBe('failure')
  })

  test("evaluates outputs in pre and post phases without the steps' values, as on GitHub", async () => {
    const header = `outputs:\n  x:\n    value: \${{ fromJSON(steps.a.outputs.n).n }}`
    const steps = (uses: string) => `
- id: a
  uses: $/actions/${uses}
  with: { text: '{"n":1}' }`
    expect(await runSteps(steps('plain'), { header })).toMatchObject({ conclusion: 'failure' })
    const fine = header.replace('outputs.n', 'outputs.text')
    expect(await runSteps(steps('plain'), { header: fine })).toMatchObject({
      conclusion: 'success',
      outputs: { x: '1' },
    })
    const withPost = await runSteps(steps('js'), { header: fine })
    expect(withPost.steps[0]).toMatchObject({ phase: 'pre', outcome: 'failure' })
  })
})
