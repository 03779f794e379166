import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

/** Range below the ephemeral ports, so that an outgoing connection cannot take the port. */
const RANGE = [20_000, 32_000] as const

/** Finds a loopback port that is free at the moment. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(...RANGE)
    if (await isFree(port)) return port
  }
}

/** Like {@link freePort}, but returns `127.0.0.1:port`. */
export async function freeAddress(): Promise<string> {
  return `127.0.0.1:${await freePort()}`
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
