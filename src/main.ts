import type { Action, Phase } from './runtime/action.ts'

// Load an action's code only when it runs, so that it does not wait for the code of all others.
const ACTIONS: Record<string, () => Promise<{ action: Action }>> = {
  setup: () => import('./actions/setup/run.ts'),
  convert: () => import('./actions/convert/run.ts'),
  mask: () => import('./actions/mask/run.ts'),
  prepare: () => import('./actions/prepare/run.ts'),
  fetch: () => import('./actions/fetch/run.ts'),
  replicate: () => import('./actions/replicate/run.ts'),
  verify: () => import('./actions/verify/run.ts'),
  fence: () => import('./actions/fence/run.ts'),
  gate: () => import('./actions/gate/run.ts'),
  brief: () => import('./actions/brief/run.ts'),
  cutover: () => import('./actions/cutover/run.ts'),
  finalize: () => import('./actions/finalize/run.ts'),
  observe: () => import('./actions/observe/run.ts'),
  abort: () => import('./actions/abort/run.ts'),
  rollback: () => import('./actions/rollback/run.ts'),
  status: () => import('./actions/status/run.ts'),
  cleanup: () => import('./actions/cleanup/run.ts'),
  report: () => import('./actions/report/run.ts'),
}

/** Runs one phase of an action. The entry points in `dist` call nothing else. */
export async function main(name: string, phase: Phase): Promise<void> {
  const load = ACTIONS[name]
  if (!load) throw new Error(`there is no action ${name}`)
  const [{ action }, { runAction }, { specs }, { keepFailure }] = await Promise.all([
    load(),
    import('./runtime/action.ts'),
    import('./actions/specs.ts'),
    import('./actions/failures.ts'),
  ])
  await runAction(action, phase, specs, keepFailure)
}

/** Runs the embedded stand-in for one of MOLT's programs and sets the exit code. */
export async function standIn(tool: 'molt' | 'replicator'): Promise<void> {
  const argv = process.argv.slice(2)
  const run =
    tool === 'molt'
      ? (await import('../rehearsal/molt/molt.ts')).moltMain
      : (await import('../rehearsal/molt/replicator.ts')).replicatorMain
  process.exitCode = await run(argv)
}
