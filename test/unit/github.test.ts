// Tests the client for GitHub's REST API against a local server: which failures it retries, and which errors it reports.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import * as z from 'zod'
import {
  type FakeGithub,
  limited,
  REPOSITORY,
  review,
  reviewed,
  startGithub,
  TOKEN,
  waitingRun,
} from '../../rehearsal/runner/github.ts'
import type { ErrorCode } from '../../src/runtime/codes.ts'
import { APPROVED, connectGithub, ONE_TRY, readEnvironment, readReviews } from '../../src/runtime/github.ts'

let github: FakeGithub
beforeAll(async () => {
  github = await startGithub()
})
beforeEach(() => {
  vi.stubEnv('GITHUB_API_URL', github.url)
  vi.stubEnv('GITHUB_REPOSITORY', REPOSITORY)
  vi.stubEnv('GITHUB_RUN_ID', '42')
  github.environment = reviewed(2)
  github.failures = []
  github.asked = []
})
afterEach(() => {
  vi.unstubAllEnvs()
})
afterAll(() => github?.close())

const patient = () => connectGithub(TOKEN, APPROVED)
const soon = (seconds: number) => String(Math.floor(Date.now() / 1000) + seconds)

test.each<[string, FakeGithub['failures']]>([
  ['a 502', [{ status: 502 }]],
  ['503s for a minute', [503, 503, 502, 503, 500].map((status) => ({ status }))],
  ['a reset connection', ['reset', 'reset']],
  ['a 429 without a message', [{ status: 429 }]],
  ['a primary rate limit', [{ status: 403, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': soon(2) } }]],
  [
    'a primary rate limit with status 429',
    [{ status: 429, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': soon(2) } }],
  ],
  [
    'a secondary rate limit',
    [{ status: 403, message: 'You have exceeded a secondary rate limit', headers: { 'retry-after': '60' } }],
  ],
  [
    'a rate limit, then a 502',
    [{ status: 403, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': soon(2) } }, { status: 502 }],
  ],
])('survives %s right after an approval', async (_, failures) => {
  github.runs.set('42', { ...waitingRun(), approvals: [review('bea')] })
  github.failures = failures
  const asked = failures.length + 1
  expect((await readReviews(patient(), 'cutover')).map(({ user }) => user.login)).toEqual(['bea'])
  expect(github.asked).toHaveLength(asked)
})

test('waits for the end of a rate limit instead of polling', async () => {
  const limit = { status: 403, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': soon(3000) } }
  github.failures = [limit]
  const began = performance.now()
  await readEnvironment(patient(), 'cutover')
  expect(performance.now() - began).toBeGreaterThan(2_900)
  expect(github.asked).toHaveLength(2)
})

const limited3h = { status: 403, headers: { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': soon(3 * 3600) } }
test.each<[string, FakeGithub['failures'], ErrorCode, number]>([
  ['a missing permission', [{ status: 403, message: 'Resource not accessible by integration' }], 'github.refused', 1],
  ['a bad token', [{ status: 401 }], 'github.refused', 1],
  ['a rate limit that lasts for hours', [limited3h], 'github.rate-limited', 1],
  ['an outage', Array.from({ length: 9 }, () => ({ status: 502 })), 'github.unavailable', 9],
  ['an unreachable network', Array.from({ length: 9 }, () => 'reset' as const), 'github.unreachable', 9],
])('reports %s with its own code', async (_, failures, code, asked) => {
  github.failures = [...failures]
  await expect(readEnvironment(patient(), 'cutover')).rejects.toMatchObject({ code })
  expect(github.asked).toHaveLength(asked)
})

test('names the permission that GitHub requires', async () => {
  github.failures = [{ status: 403, headers: { 'x-accepted-github-permissions': 'environments=read' } }]
  await expect(readEnvironment(patient(), 'cutover')).rejects.toThrow('permissions: environments: read')
})

test('does not report a rate limit as a missing permission', async () => {
  github.failures = [limited3h]
  await expect(readEnvironment(patient(), 'cutover')).rejects.not.toThrow('permissions')
})

test.each<[string, FakeGithub['failures'][number], ErrorCode]>([
  ['a 502', { status: 502 }, 'github.unavailable'],
  ['a rate limit', limited3h, 'github.rate-limited'],
  ['a 429', { status: 429 }, 'github.rate-limited'],
])('a follower does not retry at once, because it polls every minute: %s', async (_, failure, code) => {
  github.failures = [failure]
  await expect(readEnvironment(connectGithub(TOKEN, ONE_TRY), 'cutover')).rejects.toMatchObject({ code })
  expect(github.asked).toHaveLength(1)
})

test('rejects a response with an unexpected shape', async () => {
  await expect(patient().read('environments/cutover', z.object({ id: z.string() }))).rejects.toMatchObject({
    code: 'github.unexpected-answer',
  })
})

test('reads which branches an environment allows, and who can bypass it', async () => {
  expect(await readEnvironment(patient(), 'cutover')).toEqual({
    reviewers: 2,
    preventSelfReview: false,
    branches: 'protected',
    bypass: false,
  })
  github.others.set('migration', limited(['main', 'release/*']))
  expect(await readEnvironment(patient(), 'migration')).toMatchObject({ branches: ['main', 'release/*'], bypass: true })
  github.environment = { id: 1, name: 'cutover', protection_rules: [], deployment_branch_policy: null }
  expect(await readEnvironment(patient(), 'cutover')).toMatchObject({
    reviewers: 0,
    branches: 'any',
    bypass: undefined,
  })
  expect(await readEnvironment(patient(), 'made-up')).toBeUndefined()
})
