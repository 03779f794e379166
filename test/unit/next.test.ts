import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { spec } from '../../src/actions/cutover/spec.ts'
import { PHASES } from '../../src/ledger/ledger.ts'
import { nextOf } from '../../src/ledger/phases.ts'
import { nextAfter, nextCommand, nextToTell, noteNext, resetNext } from '../../src/runtime/next.ts'
import { addSecret } from '../../src/runtime/secrets.ts'

beforeEach(() => {
  for (const name of [
    'GITHUB_RUN_ID',
    'GITHUB_REPOSITORY',
    'MOLT_ACTIONS_RUNNER',
    'MOLT_ACTIONS_AGAIN',
    'MOLT_ACTIONS_WORKFLOWS',
  ])
    vi.stubEnv(name, undefined)
})

afterEach(() => {
  noteNext(undefined)
  vi.unstubAllEnvs()
})

test.each([
  ['planned', 'prepare'],
  ['prepared', 'fetch'],
  ['loaded', 'replicate'],
  ['caught-up', 'cutover'],
  ['approved', 'cutover'],
  ['committing', 'cutover'],
  ['committed', 'finalize'],
  ['switched', 'finalize'],
  ['finalized', 'cleanup'],
  ['cleaned', undefined],
  ['aborted', 'abort'],
  ['rolled-back', 'cleanup'],
] as const)('proposes a next action for a migration that is %s: %s', (phase, action) => {
  expect(nextOf(phase, {})?.action).toBe(action)
})

test('covers every phase', () => {
  expect(PHASES.filter((phase) => phase !== 'cleaned' && !nextOf(phase, {}))).toEqual([])
})

test.each([
  [{ mode: 'import', cursor: '0/1' }, 'resume'],
  [{ mode: 'import' }, 'restart'],
  [{ mode: 'direct-copy', cursor: '0/1' }, 'restart'],
])('resumes or restarts an interrupted load %j: %s', (load, policy) => {
  expect(nextOf('prepared', { load })).toEqual({ action: 'fetch', inputs: { 'on-interrupted': policy } })
})

test('proposes a commit only if the current run has `decision: commit`', () => {
  expect(nextCommand({ action: 'cutover' })).toBe(
    'npm run action -- cutover --source "$MOLT_SOURCE" --target "$MOLT_TARGET" --decision rehearse',
  )
  vi.stubEnv('INPUT_DECISION', 'commit')
  expect(nextCommand({ action: 'cutover' })).toContain('--decision commit')
})

test("repeats the run's options without a URL", () => {
  vi.stubEnv('INPUT_SOURCE', 'postgresql://mover:secret@db/shop')
  vi.stubEnv('INPUT_MIGRATION', 'shop')
  vi.stubEnv('INPUT_CONFIG', 'my config.yml')
  vi.stubEnv('INPUT_ALLOW-INSECURE', 'true')
  expect(nextCommand({ action: 'replicate' })).toBe(
    `npm run action -- replicate --source "$MOLT_SOURCE" --target "$MOLT_TARGET" --migration shop --config 'my config.yml' --allow-insecure true`,
  )
})

test('repeats all inputs if the next action is the same', () => {
  resetNext(spec)
  vi.stubEnv('INPUT_TARGET', 'postgresql://mover:secret@db/shop')
  vi.stubEnv('INPUT_DECISION', 'commit')
  vi.stubEnv('INPUT_SWITCH', 'manual')
  // Neither is repeated: a command may contain a password, and a dry run is over.
  vi.stubEnv('INPUT_SWITCH-COMMAND', '["./switch.sh", "password=hunter2"]')
  vi.stubEnv('INPUT_DRY-RUN', 'true')
  expect(nextCommand({ action: 'cutover' })).toBe(
    'npm run action -- cutover --source "$MOLT_SOURCE" --target "$MOLT_TARGET" --decision commit --switch manual',
  )
  expect(nextCommand({ action: 'finalize' })).not.toContain('manual')
  addSecret('hook-4711-secret')
  vi.stubEnv('INPUT_NOTIFY-URL', 'https://example.com/hook-4711-secret')
  vi.stubEnv('INPUT_SMOKE-TEST', 's3://b/p?AWS_SECRET_ACCESS_KEY=k')
  expect(nextCommand({ action: 'cutover' })).not.toMatch(/hook-4711|AWS_SECRET/)
})

test('proposes a workflow run on GitHub', () => {
  vi.stubEnv('GITHUB_RUN_ID', '7')
  vi.stubEnv('GITHUB_REPOSITORY', 'acme/shop')
  expect(nextCommand({ action: 'fetch', inputs: { 'on-interrupted': 'resume' } })).toBe(
    'gh workflow run migrate.yml --repo acme/shop -f migration=main -f phase=load -f on-interrupted=resume',
  )
  expect(nextCommand({ action: 'abort' })).toBe(
    'gh workflow run molt-operations.yml --repo acme/shop -f migration=main -f operation=abort',
  )
  vi.stubEnv('MOLT_ACTIONS_WORKFLOWS', '--embedded ../shop/.github/workflows')
  expect(nextCommand({ action: 'abort' })).toBe(
    'npm run workflow -- --embedded ../shop/.github/workflows/molt-operations.yml --field migration=main --field operation=abort',
  )
})

test('proposes the same action after an error, unless its code or the ledger leads to another action', () => {
  noteNext({ action: 'fetch', inputs: { 'on-interrupted': 'resume' } })
  expect(nextAfter('preflight.blocked', 'prepare')).toEqual({ action: 'prepare' })
  expect(nextAfter('slot.recreated', 'replicate')).toEqual({ action: 'abort' })
  expect(nextAfter('ledger.wrong-phase', 'replicate')).toEqual(nextToTell())
  expect(nextAfter('database.connection-lost', 'fetch')).toEqual(nextToTell())
})
