import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { notified, notify, notifyTo } from '../../src/runtime/notify.ts'
import { webhookUrl } from '../../src/runtime/types.ts'

let server: Server
let url: string
let answer: number | 'never'
let bodies: Record<string, string>[]
let printed: string

beforeEach(async () => {
  answer = 200
  bodies = []
  printed = ''
  server = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    bodies.push({ ...JSON.parse(text), type: request.headers['content-type'] })
    if (answer !== 'never') response.writeHead(answer, { location: 'http://127.0.0.1:1/' }).end('t0ken')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hooks/t0ken`
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text
    return true
  })
})
afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
  notifyTo(undefined, '')
  server.closeAllConnections()
  server.close()
})

it('sends one flat JSON message with a link to the run', async () => {
  vi.stubEnv('GITHUB_RUN_ID', '42')
  vi.stubEnv('GITHUB_REPOSITORY', 'acme/shop')
  notifyTo(url, 'main')
  notify('declined', { ending: 'expired', what: 'Nobody answered' })
  await notified()
  expect(bodies).toMatchObject([
    {
      type: 'application/json',
      version: '1',
      event: 'declined',
      migration: 'main',
      ending: 'expired',
      run: 'https://github.com/acme/shop/actions/runs/42',
      text: expect.stringContaining('Nobody answered'),
      at: expect.stringMatching(/^\d{4}-.*Z$/),
    },
  ])
  expect(Object.values(bodies[0] as object).every((value) => typeof value === 'string')).toBe(true)
})

it('sends each event once', async () => {
  notifyTo(url, 'main')
  notify('stream-stuck')
  notify('stream-stuck')
  notify('wal-half')
  await notified()
  expect(bodies.map(({ event }) => event).sort()).toEqual(['stream-stuck', 'wal-half'])
})

it('sends nothing without a URL', async () => {
  notifyTo(undefined, 'main')
  notify('committed')
  await notified()
  expect(bodies).toEqual([])
})

it.each<[string, () => void]>([
  ['refuses', () => (answer = 403)],
  ['redirects', () => (answer = 302)],
  ['does not answer', () => (answer = 'never')],
  ['is gone', () => server.close()],
])('warns without the token and continues if the webhook %s', async (_, fail) => {
  fail()
  server.closeAllConnections()
  notifyTo(url, 'main', 300)
  notify('fence-up')
  const begun = performance.now()
  await notified()
  expect(performance.now() - begun).toBeLessThan(4000)
  expect(printed).toMatch(/^::warning::sending `fence-up` to `notify-url` failed/m)
  expect(printed).not.toContain('t0ken')
  expect(bodies.length).toBeLessThanOrEqual(1)
})

it.each([
  ['https://hooks.example.com/x', true],
  ['http://127.0.0.1:8080/x', true],
  ['http://localhost/x', true],
  ['http://hooks.example.com/x', false],
  ['http://localhost.example.com/x', false],
  ['hooks.example.com', false],
])('takes %s: %s', (value, ok) => {
  expect(webhookUrl.schema.safeParse(value).success).toBe(ok)
})
