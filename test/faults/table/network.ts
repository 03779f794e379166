import type { FaultGround, Side } from '../../support/fault-ground.ts'
import type { TcpProxy } from '../../support/proxy.ts'
import type { Fault, Point } from './fault.ts'

const SIDES = ['source', 'target'] as const

function broken(name: string, side: Side, at: Point, how: (proxy: TcpProxy) => void, ...codes: string[]): Fault {
  return {
    topic: 'The network',
    name: `connections to the ${side} ${name}`,
    from: 'caught-up',
    at,
    proxied: true,
    // A hung run ends at this limit instead of the default.
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

/** Network faults, made by a TCP proxy in front of each server. */
export const NETWORK_FAULTS: readonly Fault[] = [
  {
    ...broken('are slow', 'source', 'before arming', () => {}),
    name: 'the network delays packets to and from both servers by 20 ms',
    at: 'begin',
    happens: slow,
    inputs: {},
  },
  ...SIDES.flatMap((side) => [
    broken('are reset during streaming', side, 'caught up', reset),
    broken(
      'become half-open during streaming',
      side,
      'caught up',
      halfOpen,
      'verify.inconclusive',
      'stream.stuck.connection',
    ),
    broken('hang during streaming', side, 'before arming', cut, ...LATE, 'stream.stuck.connection'),
    broken('are reset during the write pause', side, 'drained', reset, ...LOST),
    broken('become half-open during the write pause', side, 'drained', halfOpen, ...LATE),
    broken('hang during the write pause', side, 'drained', cut, ...LATE),
    {
      ...broken('are reset right after the decision', side, 'permanent on the source', reset),
      again: LOST,
    },
    { ...broken('hang right after the decision', side, 'permanent on the source', cut), again: LATE },
  ]),
]
