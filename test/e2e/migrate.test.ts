// Runs all of migrate.yml under live writes: every job with its own steps, with follower and cutover in parallel.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { review, reviewed } from '../../rehearsal/runner/github.ts'
import { canParse, parseAll } from '../grammar/grammar.ts'
import { type Night, requireGreen, startNight } from '../support/migrate.ts'
import { words } from '../support/migration.ts'

let night: Night
beforeAll(async () => {
  night = await startNight()
})
afterAll(() => night?.stop())

test('one person starts the run, another approves it, and the target takes over', async () => {
  night.github.environment = reviewed(2)
  const run = night.start({ 'max-approval-wait': '2h', decision: 'commit' })
  await run.jobs('prepare', 'load')
  expect(await night.phase()).toBe('caught-up')
  const brief = requireGreen('brief', await run.job('brief'))
  const hash = brief.outputs['plan-hash'] as string
  // The lines are in the order in which an approver needs them.
  const clock = String.raw`\d{4}-\d\d-\d\d \d\d:\d\d UTC`
  const facts = [
    '✅',
    String.raw`\*\*commit\*\*`,
    `\`${hash.slice(0, 12)}\``,
    String.raw`PostgreSQL 16, \`shop\.public\` on \`[^ ]+:\d+\``,
    String.raw`CockroachDB CCL v25\.2\.0 \(molt-actions like-server\), \`shop\.public\` on \`[^ ]+:\d+\``,
    'embedded stand-in',
    `${clock}, 2 h`,
    String.raw`\./switch\.sh`,
    `0 waived, ${clock}`,
    String.raw`[a-z]+\.[a-z-]+ \((source|target)`,
    '11 tables',
    '11 tables .* 0 lost',
    '90 s',
    'allow-insecure',
    String.raw`molt 1\.4\.1 \(embedded stand-in\): sha256 \`[0-9a-f]{64}\``,
    hash,
  ]
  expect(brief.summary).toMatch(new RegExp(facts.join(String.raw`[\s\S]*`)))

  const following = run.job('follow')
  await night.streaming()
  run.github.approvals.push(review('bea'))
  const cutover = requireGreen('cutover', await run.job('cutover'))
  const follow = requireGreen('follow', await following)
  expect(words(follow)).toMatch(/handed the slot over to /)
  expect(follow.summary).toMatch(/Lag [\s\S]*Last verify: clean, /)
  expect(cutover.outputs.phase).toBe('switched')
  expect(Number(cutover.outputs['pause-ms'])).toBeGreaterThan(0)
  expect(words(cutover)).not.toContain('switch-secret-1')
  expect(readFileSync(join(night.workspace, 'switched.txt'), 'utf8')).toBe('main switch-secret-1\n')

  const finalize = requireGreen('finalize', await run.job('finalize'))
  // With `continue-on-error`, these steps could fail in a green job.
  for (const { steps } of [cutover, finalize])
    expect(steps.filter(({ name, depth }) => depth === 1 && name.endsWith(' the dossier'))).toMatchObject([
      { name: 'Write the dossier', outcome: 'success' },
      { name: 'Upload the dossier', outcome: 'success' },
    ])
  expect(await night.phase()).toBe('finalized')
  // Each later leg ends immediately without streaming.
  const second = requireGreen('follow', await run.job('follow', { leg: 1 }))
  expect(second.steps.filter((step) => step.depth === 1 && step.outcome === 'skipped')).toHaveLength(2)
  await expect(night.rehearsal.query('source', 'UPDATE customers SET full_name = full_name')).rejects.toMatchObject({
    code: '25006',
    hint: 'Connect to the new database.',
  })
}, 300_000)

test.runIf(await canParse())(
  "CockroachDB's own grammar parses every statement sent to the target",
  async () => {
    const { sent } = night.rehearsal.pair.cluster
    expect([...sent.keys()]).toEqual(
      expect.arrayContaining(['molt-actions', 'molt fetch', 'molt verify', 'replicator']),
    )
    const statements = [...sent.values()].flatMap((each) => [...each])
    expect(statements.length).toBeGreaterThan(100)
    const answers = await parseAll(statements)
    expect(answers.flatMap((each, at) => ('error' in each ? [{ ...each, sql: statements[at] }] : []))).toEqual([])
  },
  900_000,
)
