// `npm run workflow` with its own small workflow: conditions, outputs between jobs, and the approval.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'

const WORKFLOW = `
on:
  workflow_dispatch:
    inputs:
      what: { default: one }
      sure: { type: boolean, default: false }
jobs:
  first:
    outputs: { said: "\${{ steps.say.outputs.said }}" }
    steps:
      - { id: say, run: 'echo "said=\${{ inputs.what }}" >> "$GITHUB_OUTPUT"' }
  second:
    needs: first
    environment: cutover
    steps:
      - { run: 'echo "heard \${{ needs.first.outputs.said }}"' }
  third:
    needs: [second]
    if: "\${{ inputs.sure }}"
    steps:
      - { run: 'echo "third ran"' }
`
let folder: string
let file: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'workflow-cli-'))
  mkdirSync(join(folder, '.github/workflows'), { recursive: true })
  file = join(folder, '.github/workflows/small.yml')
  writeFileSync(file, WORKFLOW)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const workflow = (...args: string[]) =>
  execa(process.execPath, ['--import', 'tsx', 'rehearsal/cli/workflow.ts', ...args], { reject: false })

test('runs the jobs in order, with the outputs and conditions of the file', async () => {
  const run = await workflow(file, '--field', 'what=two', '--approve-as', 'bea')
  expect(run).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('heard two') })
  expect(run.stdout).not.toContain('third ran')
  expect(run.stdout).toMatch(/third +skipped/)
})

test('runs no job after a rejected approval', async () => {
  const run = await workflow(file, '--field', 'sure=true', '--approve-as', 'nobody')
  expect(run).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(/second +failure/) })
  expect(run.stdout).not.toMatch(/heard|third ran/)
})

test('refuses a field that the form lacks', async () => {
  expect(await workflow(file, '--field', 'decision=commit')).toMatchObject({ exitCode: 2 })
})
