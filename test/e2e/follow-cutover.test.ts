// Runs the jobs of migrate.yml in the local runner on a live database, for every outcome of an approval, with follower and
// cutover in separate processes. Takes minutes, so it runs nightly; `migrate.test.ts` covers the normal cutover.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { jobOf, review, reviewed } from '../../rehearsal/runner/github.ts'
import type { JobResult } from '../../rehearsal/runner/runner.ts'
import { type Night, type Run, requireGreen, startNight } from '../support/migrate.ts'
import { words } from '../support/migration.ts'

let night: Night
beforeAll(async () => {
  night = await startNight()
}, 120_000)
afterAll(() => night?.stop())

/** Expects that the job fails. @param said the error's code, or a pattern for its message */
async function refused(result: Promise<JobResult | undefined>, said: string | RegExp): Promise<JobResult> {
  const ended = (await result) as JobResult
  if (typeof said === 'string') expect(words(ended)).toContain(`[${said}]`)
  else expect(words(ended)).toMatch(said)
  expect(ended.conclusion).toBe('failure')
  return ended
}
const slots = async () =>
  (await night.rehearsal.query('source', 'SELECT slot_name FROM pg_replication_slots')).map((row) => row.slot_name)
const endedBy = (follow: JobResult) => follow.steps.find((step) => step.outputs['ended-by'])?.outputs['ended-by']

/** Starts a run on a loaded target, up to the point where it waits for approval. */
async function waiting(inputs: Record<string, string> = {}, actor?: string): Promise<Run> {
  const run = night.start({ phase: 'cutover', decision: 'rehearse', ...inputs }, actor)
  await run.jobs('prepare', 'brief')
  return run
}

describe('the gate', () => {
  const prepare = (inputs: Record<string, string> = {}) => night.start(inputs).job('prepare')

  test('rejects a missing environment, because GitHub would create it without rules', async () => {
    const red = await refused(prepare(), 'approval.environment-missing')
    expect(red.steps.at(-1)?.outcome).toBe('skipped')
  })
  test('rejects an environment without reviewers', async () => {
    night.github.environment = { id: 1, name: 'cutover', protection_rules: [], deployment_branch_policy: null }
    await refused(prepare(), 'approval.no-reviewers')
    night.github.environment = reviewed(0)
    await refused(prepare(), 'approval.no-reviewers')
  })
  test("names the token's missing permission", async () => {
    night.github.status = 403
    await refused(prepare(), /permissions: actions: read/)
    night.github.status = 200
  })
  test('reports an empty secret first', async () => {
    await refused(night.start({}, 'anna', { MOLT_TARGET: '' }).job('prepare'), /the secret MOLT_TARGET is empty/)
  })
  test('rejects misspelled values at the start, not when it uses them', async () => {
    await refused(prepare({ decision: 'comit' }), /input `decision`: "comit" is not valid/)
    await refused(prepare({ 'on-declined': 'drop' }), /input `on-declined`/)
  })
  test('rejects an unknown phase and lists the valid ones', async () => {
    await refused(prepare({ phase: 'cut' }), /`prepare`, `load`, `stream`, `cutover`, `finalize`/)
  })
  test('accepts an environment with reviewers, and `gate: none` only for a rehearsal', async () => {
    night.github.environment = undefined
    requireGreen('prepare', await prepare({ phase: 'load', gate: 'none' }))
    await refused(prepare({ phase: 'load', gate: 'none', decision: 'commit' }), 'approval.required')
    night.github.environment = reviewed(2)
    const passed = requireGreen('prepare', await prepare({ phase: 'load', 'max-approval-wait': '48h' }))
    expect(passed.outputs.gate).toBe('environment')
    expect(JSON.parse(passed.outputs.legs as string)).toHaveLength(20)
  })
})

describe('under live writes', { timeout: 300_000 }, () => {
  test('prepares in one run and loads in another', async () => {
    await night.start().jobs('prepare')
    expect(await night.phase()).toBe('prepared')
    const run = night.start({ phase: 'load' })
    await run.jobs('prepare', 'load', 'brief')
    expect(await night.phase()).toBe('caught-up')
  })

  test('a run that starts with the streaming phase does not repeat the load', async () => {
    const run = night.start({ phase: 'stream' })
    await run.jobs('prepare')
    const load = requireGreen('load', await run.job('load'))
    expect(load.steps.find((step) => step.name === 'Load')?.outcome).toBe('skipped')
  })

  test('declined during streaming: fails, keeps the slot, and rejects a later approval', async () => {
    const run = await waiting()
    const following = run.job('follow')
    await night.streaming()
    Object.assign(jobOf(run.github, 'cutover'), { status: 'completed', conclusion: 'failure' })
    run.github.approvals = [review('bea', 'rejected')]
    await refused(following, 'approval.declined')
    expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
    run.github.approvals.push(review('bea'))
    await refused(run.job('cutover'), 'approval.over')
    expect(await run.job('finalize')).toBeUndefined()
  })

  test('declined between two legs: the next leg fails too', async () => {
    const run = await waiting()
    Object.assign(jobOf(run.github, 'cutover'), { status: 'completed', conclusion: 'failure' })
    run.github.approvals = [review('bea', 'rejected')]
    await refused(run.job('follow', { leg: 1 }), 'approval.declined')
  })

  test('expired at the end of the last leg: fails, and rejects a later approval', async () => {
    const run = await waiting({ 'max-approval-wait': '3s' })
    await refused(run.job('follow'), 'approval.declined')
    run.github.approvals = [review('bea')]
    await refused(run.job('cutover'), 'approval.over')
  })

  test('approved without a free runner: the follower and its next leg free their runner', async () => {
    const run = await waiting()
    jobOf(run.github, 'cutover').status = 'queued'
    const following = run.job('follow')
    await night.streaming()
    run.github.approvals = [review('bea')]
    expect(endedBy(requireGreen('follow', await following))).toBe('approved')
    const next = requireGreen('follow', await run.job('follow', { leg: 1 }))
    expect(words(next)).toMatch(/approved and waiting for a runner/)
    // No follower is running, so the cutover streams the remaining changes itself.
    const cutover = requireGreen('cutover', await run.job('cutover'))
    expect(words(cutover)).toMatch(/first verify, while changes are streamed: clean/)
    expect(await night.phase()).toBe('approved')
  })

  test('requires approval by another person', async () => {
    const run = await waiting()
    await refused(run.job('cutover'), 'approval.missing')
    run.github.approvals = [review('Anna')]
    await refused(run.job('cutover'), 'approval.same-person')
  })

  test('only warns about a self-approval or a bypass if the policy allows it', async () => {
    const lenient = { config: 'lenient.yml' }
    const own = await waiting(lenient)
    own.github.approvals = [review('anna')]
    const cutover = requireGreen('cutover', await own.job('cutover'))
    expect(words(cutover)).toMatch(/##\[warning\]anna both started and approved this run/)
    const bypassed = await waiting(lenient)
    const passed = await bypassed.job('cutover')
    expect(words(requireGreen('cutover', passed))).toMatch(
      /##\[warning\]environment `cutover` let the job pass without approval/,
    )
  })

  test('accepts only the approved plan and programs', async () => {
    const run = await waiting()
    run.github.approvals = [review('bea')]
    const { target } = night.rehearsal.pair
    const gate = (inputs: Record<string, string>) =>
      night.rehearsal.run(
        'gate',
        { do: 'approve', gate: 'none', target: target.url, ...inputs },
        { github: { run_id: run.id } },
      )
    await refused(gate({ 'plan-hash': 'a'.repeat(64) }), 'approval.plan-changed')
    const [entry] = await night.rehearsal.query('target', `SELECT plan->>'hash' AS hash FROM molt_actions.migrations`)
    const other = { 'plan-hash': String(entry?.hash), tools: `molt=${'b'.repeat(64)}` }
    await refused(gate(other), /is not the program in the plan/)
  })

  test('with `gate: none`, the cutover requests the slot immediately and logs that no approval was required', async () => {
    const run = await waiting({ gate: 'none' })
    const following = run.job('follow')
    await night.streaming()
    const cutover = requireGreen('cutover', await run.job('cutover'))
    expect(words(cutover)).toMatch(/no approval was required/)
    expect(endedBy(requireGreen('follow', await following))).toBe('request')
  })

  test('a failed follower stops the cutover, and a new run succeeds once the cause is fixed', async () => {
    const run = await waiting()
    const following = run.job('follow')
    await night.streaming()
    try {
      await night.rehearsal.query('target', 'ALTER TABLE reviews ADD COLUMN surprise integer')
      await refused(following, /reviews/)
      run.github.approvals = [review('bea')]
      await refused(run.job('cutover'), 'approval.follower-failed')
    } finally {
      await night.rehearsal.query('target', 'ALTER TABLE reviews DROP COLUMN surprise')
    }
    const again = night.start({ phase: 'stream' })
    await again.jobs('prepare', 'load', 'brief')
  })

  test('two concurrent runs: the second does not stream until its approval, which gives it the slot', async () => {
    const [first, second] = [await waiting(), await waiting()]
    const following = first.job('follow')
    await night.streaming()
    expect(words(requireGreen('follow', await second.job('follow')))).toMatch(/until handover` .* holds the slot/)
    second.github.approvals = [review('bea')]
    requireGreen('cutover', await second.job('cutover'))
    expect(endedBy(requireGreen('follow', await following))).toBe('request')
  })

  test('two concurrent cutovers: one succeeds, and the other is rejected', async () => {
    const runs = [await waiting(), await waiting()]
    for (const run of runs) run.github.approvals = [review('bea')]
    const ended = (await Promise.all(runs.map((run) => run.job('cutover')))) as JobResult[]
    const red = ended.filter((each) => each.conclusion !== 'success')
    expect(ended.some((each) => each.conclusion === 'success')).toBe(true)
    for (const each of red) expect(words(each)).toMatch(/Only one run can (have it|act)|another run/)
  })

  test('without required reviewers, a second person must enter the plan hash', async () => {
    const shown = await waiting({ gate: 'plan-hash' }, 'anna')
    expect(await shown.job('cutover')).toBeUndefined()
    const following = shown.job('follow')
    await night.streaming()
    const brief = await night.rehearsal.query('target', `SELECT plan->>'hash' AS hash FROM molt_actions.migrations`)
    const typed = { gate: 'plan-hash', 'approved-hash': String(brief[0]?.hash) }
    await refused((await waiting(typed, 'Anna')).job('cutover'), 'approval.same-person')
    await refused(
      (await waiting({ ...typed, 'approved-hash': 'c'.repeat(64) }, 'bea')).job('cutover'),
      'approval.wrong-hash',
    )
    const approved = await waiting(typed, 'bea')
    requireGreen('cutover', await approved.job('cutover'))
    expect(endedBy(requireGreen('follow', await following))).toBe('request')
    const [entry] = await night.rehearsal.query(
      'target',
      `SELECT facts->'approval' AS approval FROM molt_actions.migrations`,
    )
    expect(entry?.approval).toMatchObject({ by: 'bea', gate: 'plan-hash', planHash: typed['approved-hash'] })
  })

  test('expired, with the slot dropped as configured: requires a new load', async () => {
    const run = await waiting({ 'on-declined': 'drop-slot' })
    jobOf(run.github, 'cutover').created_at = new Date(Date.now() - 25 * 3600_000).toISOString()
    await refused(run.job('follow'), 'approval.declined')
    expect(await slots()).toEqual([])
    expect(requireGreen('status', await night.operate('status')).summary).toContain('-f operation=abort')
    const later = night.start({ phase: 'cutover' })
    await later.jobs('prepare')
    await refused(later.job('brief'), 'slot.missing')
    requireGreen('abort', await night.operate('abort'))
    const again = night.start({ config: 'again.yml' })
    await again.jobs('prepare', 'load', 'brief')
    expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
  })

  test('a failed switch command fails the job, and the next run repeats only the switch', async () => {
    const script = join(night.workspace, 'switch.sh')
    const good = readFileSync(script, 'utf8')
    writeFileSync(script, '#!/bin/sh\nexit 7\n')
    const run = await waiting({ decision: 'commit' })
    run.github.approvals = [review('bea')]
    await refused(run.job('cutover'), /The migration stays committed/)
    expect(await run.job('finalize')).toBeUndefined()
    expect(await night.phase()).toBe('committed')

    writeFileSync(script, good)
    const next = await waiting({ decision: 'commit' })
    expect(await next.job('follow')).toBeUndefined()
    next.github.approvals = [review('bea')]
    const cutover = requireGreen('cutover', await next.job('cutover'))
    expect(words(cutover)).not.toMatch(/writes are refused/)
    expect(await night.phase()).toBe('switched')
    await next.jobs('finalize')
    expect(await night.phase()).toBe('finalized')
  })

  test('finalize can run again on its own with any decision, without a follower or an approval', async () => {
    const run = night.start({ phase: 'finalize', decision: 'rehearse' })
    await run.jobs('prepare')
    for (const skipped of ['load', 'brief', 'follow', 'cutover']) expect(await run.job(skipped)).toBeUndefined()
    await run.jobs('finalize')
    const late = night.start({ phase: 'load' })
    await late.jobs('prepare')
    await refused(late.job('load'), /\[ledger\.wrong-phase\]/)
  })

  test('status shows the phase; abort and cleanup refuse after the commit', async () => {
    const status = requireGreen('status', await night.operate('status'))
    expect(status.summary).toMatch(/finalized/)
    await refused(night.operate('abort'), 'abort.committed')
    await refused(night.operate('cleanup'), /environment `cutover-cleanup` does not exist/)
    night.github.cleanup = reviewed(0)
    await refused(night.operate('cleanup'), /environment `cutover-cleanup` has no required reviewers/)
    night.github.cleanup = reviewed(2)
    await refused(night.operate('cleanup'), /rollback/)
    expect(await night.phase()).toBe('finalized')
  })
})
