import type { FaultGround, Side } from '../../support/fault-ground.ts'
import type { TcpProxy } from '../../support/proxy.ts'
import type { Fault, Point } from './fault.ts'

const SIDES = ['source', 'target'] as const

function broken(name: string, side: Side, at: Point, how: (proxy: TcpProxy) => void, ...codes: string[]): Fault {
  return {
    topic: 'The network',
    name: `${name} the ${side}`,
    from: 'caught-up',
    at,
    proxied: true,
    // What hangs must not wait for the longest pause that people allow.
    inputs: { 'max-pause': '15s' },
    happens: async (ground) => how(ground.network(side)),
    after: async (ground) => ground.network(side).heal(),
    expect: codes.length ? ['cutover', ...codes] : 'go',
  }
}

const cut = (proxy: TcpProxy) => proxy.cut()
const reset = (proxy: TcpProxy) => proxy.reset()
const halfOpen = (proxy: TcpProxy) => proxy.halfOpen()

async function slow(ground: FaultGround): Promise<void> {
  for (const side of SIDES) ground.network(side).slow(20)
}

const LOST = ['database.connection-lost', 'connect.failed']
const LATE = [...LOST, 'pause.too-long', 'drain.not-proved', 'fence.lapsed', 'hold.lost']

/** A TCP proxy before each server. */
export const NETWORK_FAULTS: readonly Fault[] = [
  {
    ...broken('slow, 20 ms each way, to', 'source', 'before arming', () => {}),
    name: 'slow, 20 ms each way, to both servers',
    at: 'begin',
    happens: slow,
    inputs: {},
  },
  ...SIDES.flatMap((side) => [
    broken('connections reset while changes are streamed, to', side, 'caught up', reset),
    broken('connections half-open while changes are streamed, to', side, 'caught up', halfOpen),
    broken('silent while changes are streamed, to', side, 'before arming', cut, ...LATE, 'stream.stuck.connection'),
    broken('connections reset in the write pause, to', side, 'drained', reset, ...LOST),
    broken('connections half-open in the write pause, to', side, 'drained', halfOpen, ...LATE),
    broken('silent in the write pause, to', side, 'drained', cut, ...LATE),
    {
      ...broken('connections reset right after the decision, to', side, 'permanent on the source', reset),
      again: LOST,
    },
    { ...broken('silent right after the decision, to', side, 'permanent on the source', cut), again: LATE },
  ]),
]
