/**
 * Makes each statement of `prepare`, `fetch`, `replicate` and `cutover` fail once with a SQLSTATE that a server can
 * return: read-only, disk full, shutdown, busy, or an error raised by a user's function. None may be reported as a bug.
 */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { LOAD_APPLICATION } from '../../rehearsal/shop/load.ts'
import { type Came, FaultGround, type State } from '../support/fault-ground.ts'

/** SQLSTATEs from every class with which a statement can fail. */
const STATES =
  '08006 0A000 22003 23505 25006 25P03 28000 40001 40003 42501 42P01 53100 53300 54000 55006 55P03 57014 57P01 58030 P0001 XX000'.split(
    ' ',
  )

/** `MOLT_ACTIONS_STATEMENTS=0-20` tests only the statements with these numbers. */
const [from = 0, to = Number.POSITIVE_INFINITY] = (process.env.MOLT_ACTIONS_STATEMENTS ?? '')
  .split('-')
  .filter(Boolean)
  .map(Number)

let ground: FaultGround
/** Called for every statement of an action while it runs. Returns the refusal for a statement, if any. */
let gate: ((client: pg.Client, key: string) => Refusal | undefined) | undefined
const query = pg.Client.prototype.query

interface Refusal {
  state: string
}

beforeAll(() => {
  pg.Client.prototype.query = refusing as typeof query
})
afterEach(() => ground?.stop(), 60_000)
afterAll(() => {
  pg.Client.prototype.query = query
})

type Parameters = { connectionParameters: { application_name?: string; database?: string; port?: number } }

function refusing(this: pg.Client, ...given: unknown[]): unknown {
  const call = () => Reflect.apply(query, this, given)
  const text = typeof given[0] === 'string' ? given[0] : (given[0] as { text?: unknown })?.text
  const { application_name: name = '', port } = (this as unknown as Parameters).connectionParameters
  if (!gate || typeof text !== 'string' || !name.startsWith('molt-actions') || name === LOAD_APPLICATION) return call()
  const side = port === ground.source.port ? 'source' : 'target'
  // A server never refuses ROLLBACK.
  if (/^ROLLBACK/i.test(text)) return call()
  const refusal = gate(this, `${side} ${keyOf(text)}`)
  return refusal ? refuse(this, refusal) : call()
}

function keyOf(text: string): string {
  return text
    .replace(/'(?:[^']|'')*'/g, "'…'")
    .replace(/\d+/g, '0')
    .replace(/\s+/g, ' ')
    .slice(0, 300)
}

/** Fails like a server: aborts an open transaction, or ends the connection if the error ends the session. */
async function refuse(client: pg.Client, { state }: Refusal): Promise<never> {
  if (/^(08|57P|25P03)/.test(state)) await Reflect.apply(query, client, ['SELECT 1']).catch(() => {})
  else await Reflect.apply(query, client, ['SELECT 1/0']).catch(() => {})
  if (/^(08|57P|25P03)/.test(state))
    (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
  throw Object.assign(new pg.DatabaseError('refused by the test', 0, 'error'), { code: state, severity: 'ERROR' })
}

async function run(action: string): Promise<Came> {
  try {
    return await ground.run(action)
  } finally {
    gate = undefined
  }
}

/** Returns the distinct statements of a run in which none is refused, in order. */
async function statementsOf(action: string, state: State): Promise<string[]> {
  const keys = new Set<string>()
  await ground.restore(state)
  gate = (_, key) => {
    keys.add(key)
    return undefined
  }
  const { red, log } = await run(action)
  expect(red, log).toBeUndefined()
  return [...keys]
}

/** `each`: tests every nth statement, because a run takes ten seconds. The number of states must not be a multiple of it. */
test.each([
  ['prepare', 'fresh', 1],
  ['fetch', 'prepared', 4],
  ['replicate', 'loaded', 4],
  ['cutover', 'caught-up', 4],
] as const)('no refused statement of %s is a bug', { timeout: 3_000_000 }, async (action, state, each) => {
  ground = await FaultGround.start(state)
  const keys = await statementsOf(action, state)
  const bugs: string[] = []
  let green = true
  for (const [at, key] of keys.entries()) {
    if (at < from || at >= to || (!process.env.MOLT_ACTIONS_STATEMENTS && at % each)) continue
    const refused = STATES[at % STATES.length] as string
    // A failed `prepare` leaves the databases ready for the next run.
    if (action !== 'prepare' || green) await ground.restore(state)
    let met = false
    gate = (_, now) => {
      if (met || now !== key) return undefined
      met = true
      return { state: refused }
    }
    const { red, log } = await run(action)
    green = !red
    if (process.env.MOLT_ACTIONS_STATEMENTS)
      console.log(`${at}/${keys.length} ${refused} ${met ? (red ?? 'green') : 'not met'}: ${key}`)
    if (red === 'internal.bug')
      bugs.push(
        `${refused} at ${key}:\n${log
          .split('\n')
          .filter((line) => line.includes('bug'))
          .join('\n')}`,
      )
  }
  expect(bugs).toEqual([])
})
