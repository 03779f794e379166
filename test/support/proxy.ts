import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A proxy that can cut connections to a server: silently, like a broken cable, or by resetting them. */
export interface TcpProxy {
  /** The URL with this proxy in place of the server. */
  url(url: string): string
  /** Drops everything silently. */
  cut(): void
  /** Forwards the data that was held back, as TCP would retransmit it. */
  heal(): void
  /** Resets every connection, but accepts new ones. */
  reset(): void
  /** Closes every connection to the server without telling the client, as after a lost FIN. Accepts new ones. */
  halfOpen(): void
  /** Delays every packet by this time. */
  slow(ms: number): void
  stop(): Promise<void>
}

export async function startProxy(port: number): Promise<TcpProxy> {
  const pairs = new Set<[Socket, Socket]>()
  let silent = false
  let delay = 0
  const server = createServer({ allowHalfOpen: false }, (client) => {
    const upstream = connect(port, '127.0.0.1')
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    for (const [from, to] of [pair, [upstream, client]] as const) {
      from.on('data', (chunk) => {
        if (delay) setTimeout(() => to.write(chunk), delay)
        else to.write(chunk)
      })
      from.on('error', () => to.destroy())
      from.on('close', () => {
        to.destroy()
        pairs.delete(pair)
      })
      if (silent) from.pause()
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const each = (work: (socket: Socket) => void) => {
    for (const pair of pairs) pair.forEach(work)
  }
  return {
    url: (url) => url.replace(/127\.0\.0\.1:\d+|localhost:\d+/, `127.0.0.1:${(server.address() as AddressInfo).port}`),
    cut() {
      silent = true
      each((socket) => socket.pause())
    },
    heal() {
      silent = false
      each((socket) => socket.resume())
    },
    reset: () => each((socket) => socket.resetAndDestroy()),
    halfOpen() {
      for (const [client, upstream] of pairs) {
        client.removeAllListeners('data').on('data', () => {})
        upstream.removeAllListeners('close').destroy()
      }
    },
    slow(ms) {
      delay = ms
    },
    async stop() {
      each((socket) => socket.destroy())
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
