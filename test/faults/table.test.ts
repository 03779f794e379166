/**
 * Faults and their outcomes: with a plain script of the documented commands, with the suite, and in reality. A row of
 * the table is data in `table/`. `npm run test:faults` runs all of them and writes docs/faults.md;
 * `MOLT_ACTIONS_FAULT=<part of a name>` runs some.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { FaultGround, type Truth } from '../support/fault-ground.ts'
import { REPO } from '../support/migration.ts'
import { PlainScript } from '../support/plain-script.ts'
import { standInFolder, trickedFolder } from '../support/stand-in.ts'
import { type Ended, type Fault, POINTS, STEPS } from './table/fault.ts'
import { LOAD_FAULTS } from './table/load.ts'
import { NIGHT_FAULTS } from './table/night.ts'
import { faultsPage, lineOf, type Row } from './table/page.ts'
import { SEEN } from './table/seen.ts'
import { STREAM_FAULTS } from './table/stream.ts'

const { MOLT_ACTIONS_FAULT: some, MOLT_ACTIONS_NIGHTLY: night, MOLT_ACTIONS_GROUP: group } = process.env
const written = group === 'faults' && !some
const FAULTS = [...LOAD_FAULTS, ...STREAM_FAULTS, ...NIGHT_FAULTS]
const chosen = FAULTS.filter(({ name, short }) => (some ? name.includes(some) : night || short))
/** The plain script's outcome is only for the page. */
const withScript = written || Boolean(some)

let ground: FaultGround
const rows: Row[] = []
beforeAll(async () => {
  ground = await FaultGround.start()
}, 300_000)
afterAll(() => ground?.stop())

/** In the order of the table, whatever order they ran in. */
function inOrder(): Row[] {
  return FAULTS.flatMap((each) => rows.filter(({ fault }) => fault === each))
}

function toolsOf({ trick }: Fault): string {
  return trick ? trickedFolder(trick) : standInFolder()
}

async function byScript(fault: Fault): Promise<{ said: string; truth: Truth }> {
  await ground.restore(fault.from)
  const client = await fault.before?.(ground)
  const moment = POINTS[fault.at ?? 'begin']
  const script = new PlainScript(ground, toolsOf(fault), async (now) => {
    if (now === moment) await fault.happens?.(ground, client)
    return now === moment && fault.killed
  })
  const said = await script.run(fault.from)
  await fault.after?.(ground)
  return { said, truth: await ground.look() }
}

async function bySuite(fault: Fault): Promise<{ ended: Ended; truth: Truth }> {
  await ground.restore(fault.from)
  const tools = toolsOf(fault)
  const client = await fault.before?.(ground)
  const { at = 'begin', killed } = fault
  if (at === 'begin') await fault.happens?.(ground, client)
  let ended: Ended = { step: '', red: undefined, log: '' }
  for (const step of STEPS[fault.from]) {
    const pointed = step === 'cutover' && at !== 'begin'
    const work = async (pid: number) => {
      await fault.happens?.(ground, client)
      process.kill(pid, killed ? 'SIGKILL' : 'SIGCONT')
    }
    ended = { step, ...(await ground.run(step, { tools, at: pointed ? { point: at, work } : undefined })) }
    if (pointed && killed) ended = { step, ...(await ground.run(step, { tools })) }
    if (ended.red) break
  }
  await fault.after?.(ground)
  return { ended, truth: await ground.look() }
}

test.each(chosen.map((fault) => [`${fault.topic}: ${fault.name}`, fault] as const))(
  '%s',
  { timeout: 300_000 },
  async (title, fault) => {
    const script = withScript ? await byScript(fault) : undefined
    const { ended, truth } = await bySuite(fault)
    rows.push({ fault, script, suite: ended, truth })
    if (written) writeFileSync(join(REPO, 'docs/faults.md'), faultsPage(inOrder(), FAULTS.length))
    if (script) console.log(lineOf({ fault, script, suite: ended, truth }))
    const what = `${JSON.stringify(truth)}\n${ended.log}`
    if (ended.red) {
      // An undecided migration must leave the application able to write.
      expect(truth.open, what).toHaveLength(1)
    } else expect(truth, what).toEqual({ rows: {}, absent: [], behind: [], open: ['target'] })
    const came = ended.red ? `${ended.step}: ${ended.red}` : 'go'
    const [step, ...codes] = fault.expect === 'go' ? [] : fault.expect
    const expected = step ? codes.map((code) => `${step}: ${code}`) : ['go']
    if (SEEN.has(title)) expect(expected, what).toContain(came)
    else if (!expected.includes(came)) console.warn(`${title}: ${came}, and not ${expected.join(' or ')}`)
  },
)
