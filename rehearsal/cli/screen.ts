import { seconds } from '../../src/runtime/progress.ts'

const BAR = 24
const SPIN_EVERY = 200

/** Shows the progress of a rehearsal: a live bar on a terminal, plain lines otherwise. */
export class Screen {
  readonly #began = performance.now()
  readonly #stream: NodeJS.WriteStream
  readonly #live: boolean
  #done = 0
  #total = 1
  #latest = ''
  #timer: NodeJS.Timeout | undefined

  /** @param aside sends everything to standard error, to keep standard output clean */
  constructor(aside: boolean) {
    this.#stream = aside ? process.stderr : process.stdout
    // `act` provides a terminal, but saves the log as plain text.
    this.#live = this.#stream.isTTY === true && !process.env.CI
    if (this.#live) this.#timer = setInterval(() => this.#draw(), SPIN_EVERY)
  }

  step(place: number, total: number, name: string): void {
    this.#done = place - 1
    this.#total = total
    this.say(`[${place}/${total}] ${name}`)
  }

  /** Prints a line that stays on the screen. */
  say(text: string): void {
    this.#latest = text
    this.#write(`${this.#time()} ${text}`)
  }

  /** Prints a line of an action's log, below its step. */
  line(text: string): void {
    this.#latest = text.split('\n')[0] as string
    this.#write(`${this.#time()}   ${text}`)
  }

  end(): void {
    clearInterval(this.#timer)
    if (this.#live) this.#stream.write('\r\x1b[2K')
  }

  #write(text: string): void {
    this.#stream.write(this.#live ? `\r\x1b[2K${text}\n` : `${text}\n`)
    if (this.#live) this.#draw()
  }

  #draw(): void {
    const filled = Math.round((this.#done / this.#total) * BAR)
    const width = (this.#stream.columns ?? 80) - BAR - 12
    const text = this.#latest.slice(0, Math.max(10, width))
    this.#stream.write(`\r\x1b[2K${this.#time()} ${'█'.repeat(filled)}${'░'.repeat(BAR - filled)} ${text}`)
  }

  #time(): string {
    return seconds(performance.now() - this.#began).padStart(7)
  }
}
