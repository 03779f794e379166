// The night as GitHub runs it: brief, then a follower and the gate side by side, on a live database. GitHub's REST is a
// local fake whose answers have the recorded shapes.
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JobResult } from '../../src/rehearsal/runner.ts'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'

/** What the fake answers; tests change it as people would act. */
const github = {
  status: 200,
  environment: undefined as object | undefined,
  cutover: { name: 'migrate / cutover', status: 'waiting', conclusion: null as string | null, steps: [] as object[] },
  follow: { name: 'migrate / follow (1)', status: 'in_progress', conclusion: null as string | null },
  approvals: [] as object[],
  rehearsals: [] as { id: number; event: string; artifact: string }[],
  asked: [] as string[],
}
const reviewed = (reviewers: number) => ({
  id: 1,
  name: 'cutover',
  protection_rules: [
    { id: 3736, type: 'wait_timer', wait_timer: 30 },
    {
      id: 3755,
      type: 'required_reviewers',
      prevent_self_review: false,
      reviewers: Array.from({ length: reviewers }, (_, id) => ({ type: 'User', reviewer: { login: 'bea', id } })),
    },
  ],
  deployment_branch_policy: { protected_branches: true, custom_branch_policies: false },
})
const review = (login: string, state = 'approved') => ({
  state,
  comment: '',
  environments: [{ id: 1, name: 'cutover' }],
  user: { login, id: 7, type: 'User' },
})

function answer(url: string): object | undefined {
  const { pathname, searchParams } = new URL(url, 'http://x')
  const path = pathname.replace('/repos/acme/shop', '')
  if (path === '') return { default_branch: 'main' }
  if (path === '/environments/cutover') return github.environment
  if (path === '/actions/runs/42/approvals') return github.approvals
  if (path === '/actions/runs/42/attempts/1/jobs')
    return {
      total_count: 2,
      jobs: [github.cutover, github.follow].map((job) => ({ ...job, id: 1, created_at: '2026-01-01T00:00:00Z' })),
    }
  if (path === '/actions/workflows/rehearse.yml/runs' && searchParams.get('branch') === 'main')
    return { total_count: 1, workflow_runs: github.rehearsals.map(({ id, event }) => ({ id, event })) }
  const run = github.rehearsals.find(({ id }) => path === `/actions/runs/${id}/artifacts`)
  return run && { total_count: 1, artifacts: [{ id: 1, name: run.artifact, expired: false }] }
}

let server: Server
let rehearsal: Rehearsal
let api = ''
beforeAll(async () => {
  server = createServer((request, response) => {
    github.asked.push(request.url ?? '')
    const body = request.headers.authorization === 'Bearer ghs_token' ? answer(request.url ?? '') : undefined
    response.writeHead(github.status === 200 && !body ? 404 : github.status, { 'content-type': 'application/json' })
    response.end(JSON.stringify(body ?? { message: 'Not Found' }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  api = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  rehearsal = await startRehearsal({ rows: 1000, rate: 20 })
  requireSuccess('setup', await rehearsal.run('setup', { embedded: 'true' }))
  requireSuccess('prepare', await rehearsal.run('prepare', { 'rehearsal-target': 'true' }))
  requireSuccess('fetch', await rehearsal.run('fetch', { mode: 'direct-copy' }))
}, 120_000)
afterAll(async () => {
  await rehearsal?.stop()
  server?.close()
})

function run(name: string, inputs: Record<string, string> = {}): Promise<JobResult> {
  const context = { repository: 'acme/shop', run_id: '42', run_attempt: '1', triggering_actor: 'anna', actor: 'anna' }
  const { target } = rehearsal.pair
  const own = { target: target.url, token: 'ghs_token', ...inputs }
  return rehearsal.run(name, name === 'gate' ? { ...own } : inputs, {
    github: { ...context, api_url: api },
    env: { GITHUB_API_URL: api },
  })
}
const gate = (what: string, inputs: Record<string, string> = {}) => run('gate', { do: what, ...inputs })
const follow = () =>
  run('replicate', {
    until: 'handover',
    token: 'ghs_token',
    poll: '500ms',
    'leg-limit': '100s',
    'max-approval-wait': '100000d',
    'quiet-period': '500ms',
  })
async function refused(result: Promise<JobResult>, text: RegExp): Promise<void> {
  const ended = await result
  expect(words(ended)).toMatch(text)
  expect(ended.conclusion).toBe('failure')
}
const phase = async () => (await rehearsal.query('target', 'SELECT phase FROM molt_actions.migrations'))[0]?.phase

describe('the gate must exist', () => {
  test('an environment that is not there is refused: GitHub would make it without rules', async () => {
    await refused(gate('require'), /there is no environment `cutover`/)
  })
  test('so is one without reviewers', async () => {
    github.environment = { id: 1, name: 'cutover', protection_rules: [], deployment_branch_policy: null }
    await refused(gate('require'), /no required reviewers/)
    github.environment = reviewed(0)
    await refused(gate('require'), /no required reviewers/)
  })
  test('a token without the right is told which one', async () => {
    github.status = 403
    await refused(gate('require'), /permissions: actions: read/)
    github.status = 200
  })
  test('an empty secret fails by its name, and a phase that does not exist by the list', async () => {
    await refused(gate('require', { secrets: 'MOLT_SOURCE=true, MOLT_TARGET=false' }), /secret MOLT_TARGET is empty/)
    await refused(gate('require', { phase: 'cut' }), /`prepare`, `load`, `stream`, `cutover`, `finalize`/)
  })
  test('with reviewers it passes, and says how long the legs are', async () => {
    github.environment = reviewed(2)
    const passed = await gate('require', { 'max-approval-wait': '48h' })
    requireSuccess('gate', passed)
    expect(JSON.parse(passed.outputs.legs as string)).toHaveLength(20)
    expect(passed.outputs['leg-limit']).toBe('8640s')
  })
  test('without a gate it must be said by name', async () => {
    github.environment = undefined
    expect((await gate('require', { gate: 'none' })).conclusion).toBe('success')
    github.environment = reviewed(2)
  })
})

describe('a migration under load', { timeout: 120_000 }, () => {
  let hash = ''
  const approve = (inputs: Record<string, string> = {}) => gate('approve', { 'plan-hash': hash, ...inputs })

  test('is not ready before it was verified', async () => {
    await refused(run('brief'), /has not caught up/)
  })

  test('is shown to the approver with the hash of its plan', async () => {
    const caughtUp = { until: 'caught-up', 'quiet-period': '500ms', verify: 'full' }
    requireSuccess('replicate', await run('replicate', caughtUp))
    const brief = await run('brief')
    requireSuccess('brief', brief)
    hash = brief.outputs['plan-hash'] as string
    expect(brief.outputs).toMatchObject({ verdict: 'go', phase: 'caught-up', follow: 'true' })
    expect(brief.summary).toContain(hash)
    expect(brief.summary).toContain('allow-insecure')
  })

  test('declined: the follower is red and the slot stays; an approval that comes later is refused', async () => {
    const following = follow()
    await sleep(3_000)
    Object.assign(github.cutover, { status: 'completed', conclusion: 'failure' })
    github.approvals = [review('bea', 'rejected')]
    const ended = await following
    expect(words(ended)).toMatch(/the cutover was declined; the slot molt_slot is kept/)
    expect(ended.conclusion).toBe('failure')
    expect(await rehearsal.query('source', 'SELECT 1 FROM pg_replication_slots')).toHaveLength(1)
    github.approvals.push(review('bea'))
    await refused(approve(), /declined already/)
    Object.assign(github.cutover, { status: 'waiting', conclusion: null })
    github.approvals = []
    requireSuccess('brief', await run('brief'))
  })

  test('only another person can approve, and only this plan', async () => {
    await refused(approve(), /passed without an approval/)
    github.approvals = [review('Anna')]
    await refused(approve(), /Anna has started this run and approved it/)
    github.approvals = [review('bea')]
    await refused(approve({ 'plan-hash': 'a'.repeat(64) }), /not the one that was approved/)
    await refused(approve({ tools: `molt=${'b'.repeat(64)}` }), /not the program of the approved plan/)
    Object.assign(github.follow, { status: 'completed', conclusion: 'failure' })
    await refused(approve(), /is red/)
    Object.assign(github.follow, { status: 'in_progress', conclusion: null })
    expect(await phase()).toBe('caught-up')
  })

  test('typed by the person who started the first run, the hash does not count', async () => {
    const typed = { gate: 'plan-hash', 'approved-hash': hash }
    await refused(approve({ gate: 'plan-hash' }), /`approved-hash` is not the hash/)
    await refused(approve(typed), /no earlier run has shown this plan/)
  })

  test('rehearsals of a branch do not count', async () => {
    const artifact = `molt-rehearsal-${hash}`
    github.rehearsals = [
      { id: 1, event: 'schedule', artifact },
      { id: 2, event: 'pull_request', artifact },
      { id: 3, event: 'workflow_dispatch', artifact: 'molt-rehearsal-other' },
    ]
    await refused(gate('rehearsed', { 'plan-hash': hash, rehearsals: '2' }), /rehearsed green 1 times/)
    github.rehearsals.push({ id: 4, event: 'workflow_dispatch', artifact })
    requireSuccess('gate', await gate('rehearsed', { 'plan-hash': hash, rehearsals: '2' }))
  })

  test('approved: the follower hands the slot over, and the cutover goes through', async () => {
    expect((await gate('needed')).outputs.needed).toBe('true')
    const following = follow()
    await sleep(3_000)
    Object.assign(github.cutover, { status: 'in_progress' })
    const approved = await approve()
    requireSuccess('gate', approved)
    expect(approved.outputs['approved-by']).toBe('bea')
    expect(await phase()).toBe('approved')
    expect((await approve({ 'max-verify-age': '1ms', bypass: 'warn' })).outputs['verify-stale']).toBe('true')
    requireSuccess('cutover', await run('cutover', { decision: 'commit', 'quiet-period': '500ms' }))
    const ended = await following
    requireSuccess('follow', ended)
    expect(ended.outputs['ended-by']).toBe('request')
    expect((await gate('needed')).outputs.needed).toBe('false')
    const [entry] = await rehearsal.query('target', `SELECT facts->'approval' AS approval FROM molt_actions.migrations`)
    expect(entry?.approval).toMatchObject({ planHash: hash, startedBy: 'anna' })
  })

  test('a resumed run has nothing left to follow', async () => {
    expect((await run('brief')).outputs).toMatchObject({ verdict: 'go', follow: 'false' })
  })
})
