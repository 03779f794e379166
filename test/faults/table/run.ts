import { setTimeout as sleep } from 'node:timers/promises'
import type { Came, FaultGround, Side, Truth } from '../../support/fault-ground.ts'
import { PlainScript } from '../../support/plain-script.ts'
import { standInFolder, trickedFolder } from '../../support/stand-in.ts'
import { type Ended, type Fault, POINTS, STEPS } from './fault.ts'

/** What the plain script or the suite concluded, and what is true. */
export interface Concluded<T> {
  ended: T
  truth: Truth
}

/** Runs a plain script of the documented commands with this fault. */
export async function byScript(ground: FaultGround, fault: Fault): Promise<Concluded<string>> {
  const client = await begin(ground, fault)
  const moment = POINTS[fault.at ?? 'begin']
  const script = new PlainScript(ground, toolsOf(fault), async (now) => {
    if (now === moment) await fault.happens?.(ground, client)
    return now === moment && Boolean(fault.killed || fault.dies)
  })
  const ended = await script.run(fault.from)
  await fault.after?.(ground)
  return { ended, truth: await ground.look() }
}

/** Runs the suite's steps with this fault, up to the first step that fails. */
export async function bySuite(ground: FaultGround, fault: Fault): Promise<Concluded<Ended>> {
  const client = await begin(ground, fault)
  const { at = 'begin', hours } = fault
  const tools = toolsOf(fault)
  let met = at === 'begin'
  if (met) await fault.happens?.(ground, client)
  const work = async (pid: number) => {
    met = true
    try {
      await fault.happens?.(ground, client)
    } finally {
      process.kill(pid, fault.killed ? 'SIGKILL' : 'SIGCONT')
    }
  }
  let ended: Ended = { step: '', red: undefined, log: '' }
  for (const step of STEPS[fault.from]) {
    const pointed = step === 'cutover' && at !== 'begin' ? { point: at, work } : undefined
    const dies = fault.dies?.step === step ? fault.dies : undefined
    const inputs = step === 'cutover' ? fault.inputs : undefined
    const came = await ground.run(step, { tools, at: pointed, dies, hours, inputs })
    ended = { step, red: came.red, log: came.log }
    if (dies || (pointed && fault.killed) || (came.red && fault.again)) {
      await fault.after?.(ground)
      const again = await rerun(ground, step, tools)
      ended = { step, red: again.red, log: again.log, first: came.red }
    }
    if (ended.red) break
  }
  if (!met && !ended.red) throw new Error(`nothing happened at "${at}":\n${ended.log}`)
  await fault.after?.(ground)
  return { ended, truth: await ground.look() }
}

async function begin(ground: FaultGround, fault: Fault) {
  await ground.restore(fault.from, fault.calm ? 0 : undefined)
  if (fault.proxied) await ground.useNetwork()
  return fault.before?.(ground)
}

function toolsOf({ trick }: Fault): string {
  return trick ? trickedFolder(trick) : standInFolder()
}

const PATIENCE = 75_000
const NOT_YET = /^(hold\.|fence\.armed-by-other)/

/** Reruns a step as an operator would: until the killed run's hold and fence have expired. */
async function rerun(ground: FaultGround, step: string, tools: string): Promise<Came> {
  for (const end = performance.now() + PATIENCE; ; await sleep(1_000)) {
    const came = await ground.run(step, { tools })
    if (!NOT_YET.test(came.red ?? '') || performance.now() > end) return came
  }
}

/** The only sides where the application must be able to write. */
export function openAfter({ open }: Fault, { step, red }: Ended): readonly Side[] {
  if (open) return open
  return red && step !== 'finalize' ? ['source'] : ['target']
}
