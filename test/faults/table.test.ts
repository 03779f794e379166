/**
 * Faults, and for each one the conclusions of a plain script and of the suite, compared with the truth. The faults are
 * defined in `table/`. `npm run test:faults` runs all of them and writes docs/faults.md;
 * `MOLT_ACTIONS_FAULT=<part of a name>` runs some and updates their rows.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { FaultGround } from '../support/fault-ground.ts'
import { ofPart } from '../support/part.ts'
import type { Fault } from './table/fault.ts'
import { LOAD_FAULTS } from './table/load.ts'
import { NETWORK_FAULTS } from './table/network.ts'
import { NIGHT_FAULTS } from './table/night.ts'
import { OPERATOR_FAULTS } from './table/operators.ts'
import { keepRow, lineOf, type Row, titleOf, writePage } from './table/page.ts'
import { byScript, bySuite, openAfter } from './table/run.ts'
import { SERVER_FAULTS } from './table/servers.ts'
import { STREAM_FAULTS } from './table/stream.ts'

const { MOLT_ACTIONS_FAULT: some, MOLT_ACTIONS_GROUP: group } = process.env
const written = group === 'faults'
const FAULTS = [
  ...LOAD_FAULTS,
  ...STREAM_FAULTS,
  ...NIGHT_FAULTS,
  ...SERVER_FAULTS,
  ...NETWORK_FAULTS,
  ...OPERATOR_FAULTS,
]
const chosen = written ? ofPart(FAULTS.filter((each) => !some || titleOf(each).includes(some))) : FAULTS.filter(isShort)

let ground: FaultGround
beforeAll(async () => {
  ground = await FaultGround.start(...chosen.map(({ from }) => from))
}, 300_000)
afterAll(() => ground?.stop())

function isShort({ short }: Fault): boolean {
  return short ?? false
}

test.each(chosen.map((fault) => [titleOf(fault), fault] as const))('%s', { timeout: 300_000 }, async (_, fault) => {
  // Only the page shows the plain script's outcome.
  const script = written && !fault.suiteOnly ? await byScript(ground, fault) : undefined
  const suite = await bySuite(ground, fault)
  const row: Row = { fault, script, suite }
  if (written) {
    console.log(lineOf(row))
    keepRow(row)
    writePage(FAULTS)
  }
  const { ended, truth } = suite
  const what = `${JSON.stringify(truth)}\n${ended.log}`
  expect(truth.open, what).toEqual(openAfter(fault, ended))
  if (!ended.red) expect(truth, what).toMatchObject({ rows: {}, absent: [], behind: [] })
  const [step, ...codes] = fault.expect === 'go' ? [] : fault.expect
  const expected = step ? codes.map((code) => (code.includes(': ') ? code : `${step}: ${code}`)) : ['go']
  expect(expected, what).toContain(ended.red ? `${ended.step}: ${ended.red}` : 'go')
  if (fault.again && ended.first) expect(fault.again, what).toContain(ended.first)
})
