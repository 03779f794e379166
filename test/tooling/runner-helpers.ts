import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import {
  type JobResult,
  type Phase,
  type RunOptions,
  runAction,
  type StepResult,
} from '../../rehearsal/runner/runner.ts'

/** Repository with the actions `js`, which runs the JavaScript in its inputs, and `plain`, and a composite root. */
export const FIXTURE = fileURLToPath(new URL('../fixtures/runner', import.meta.url))

/** Copies the fixture, adds files, and removes the copy after the test. */
export function repository(files: Record<string, string>): string {
  const repo = mkdtempSync(join(tmpdir(), 'runner-test-'))
  onTestFinished(() => rmSync(repo, { recursive: true, force: true }))
  cpSync(FIXTURE, repo, { recursive: true })
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(repo, name)), { recursive: true })
    writeFileSync(join(repo, name), text)
  }
  return repo
}

/** Runs the fixture's `js` action: its main phase, and the other phases if they have a script. */
export function runJs(inputs: Record<string, string>, more: Partial<RunOptions> = {}): Promise<JobResult> {
  const phases = (['pre', 'main', 'post'] as const).filter((phase) => phase === 'main' || phase in inputs)
  return runAction({ phases, dir: join(FIXTURE, 'actions/js'), repo: FIXTURE, inputs, ...more })
}

/** Runs a composite action with these YAML steps, in a copy of the fixture. */
export function runSteps(steps: string, more: Partial<RunOptions> & { header?: string } = {}): Promise<JobResult> {
  const { header = '', ...options } = more
  const indented = steps.replace(/^\n/, '').replace(/^/gm, '    ')
  const text = `name: test\ndescription: test\n${header}\nruns:\n  using: composite\n  steps:\n${indented}\n`
  const repo = repository({ 'chain/action.yml': text })
  return runAction({ dir: join(repo, 'chain'), repo, inputs: {}, ...options })
}

export function stepOf(result: JobResult, id: string, phase = 'main'): StepResult {
  const step = result.steps.find((each) => each.id === id && each.phase === phase)
  if (!step) throw new Error(`there is no ${phase} step ${id}`)
  return step
}

/** The action's own step in a phase. */
export function phaseOf(result: JobResult, phase: Phase = 'main'): StepResult {
  const step = result.steps.find((each) => each.depth === 0 && each.phase === phase)
  if (!step) throw new Error(`there is no ${phase} phase`)
  return step
}

/** Phase and id or name of each step below the action that was not skipped, in order. */
export function ran(result: JobResult): string[] {
  return result.steps
    .filter((step) => step.depth > 0 && step.outcome !== 'skipped')
    .map((step) => `${step.phase} ${step.id ?? step.name}`)
}

export function messages(result: { annotations: { level: string; message: string }[] }): string[] {
  return result.annotations.map(({ level, message }) => `${level}: ${message}`)
}
