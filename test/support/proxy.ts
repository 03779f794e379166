import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** A way to a server that can be cut: silently, as a broken cable does, or with every connection reset. */
export interface TcpProxy {
  /** The same URL by way of this proxy. */
  url(url: string): string
  /** Nothing gets through, and nobody is told. */
  cut(): void
  /** What was held back flows again, as TCP sends it again. */
  heal(): void
  /** Every connection is reset; new ones are possible. */
  reset(): void
  stop(): Promise<void>
}

export async function startProxy(port: number): Promise<TcpProxy> {
  const pairs = new Set<[Socket, Socket]>()
  let silent = false
  const server = createServer({ allowHalfOpen: false }, (client) => {
    const upstream = connect(port, '127.0.0.1')
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    for (const [from, to] of [pair, [upstream, client]] as const) {
      from.on('data', (chunk) => to.write(chunk))
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
    async stop() {
      each((socket) => socket.destroy())
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
