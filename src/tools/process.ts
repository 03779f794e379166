import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, renameSync, writeSync } from 'node:fs'
import { get } from 'node:http'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ErrorCode } from '../runtime/codes.ts'
import { childEnvironment } from '../runtime/environment.ts'
import { ToolError } from '../runtime/errors.ts'
import { redact } from '../runtime/secrets.ts'
import { TIMING } from '../runtime/timing.ts'
import { readLines } from './lines.ts'
import { hidePasswords } from './passwords.ts'

/** How a child process ended: with an exit code, or killed by a signal. */
export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Launch {
  program: string
  args: readonly string[]
  /** Variables in addition to the few that every child process inherits. */
  env?: Record<string, string>
  /** File for the redacted and scrubbed output, mode 600. At most twice `LOG_LIMIT`, including the rotated file. */
  logFile: string
  /**
   * Removes row values from a line before the line is logged or remembered. Returns undefined to drop the line.
   * `onLine` receives the original line.
   */
  scrub?(line: string): string | undefined
  /**
   * Passes the passwords from URLs in `args` in a file, so that the process list does not show them. Only for programs
   * that support PGPASSFILE.
   */
  hidePasswords?: boolean
  onLine(line: string, stream: 'stdout' | 'stderr'): void
}

const REMEMBERED = 2_000
const LOG_LIMIT = 64 * 1024 * 1024

/**
 * Kills a tool and its descendants if this process dies, because a surviving replicator would keep reading the slot.
 * The pipe on standard input closes when this process dies. A line on it means that the tool has already exited.
 */
const WATCHDOG = `trap '' INT TERM HUP
read -r over && exit 0
kill -s TERM -- "-$1" 2>/dev/null
[ -z "$2" ] || rm -f "$2"
for i in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 -- "-$1" 2>/dev/null || exit 0; sleep 0.5; done
kill -s KILL -- "-$1" 2>/dev/null`

function watchdog(pid: number, passwords = ''): ChildProcess {
  const child = spawn('/bin/sh', ['-c', WATCHDOG, 'molt-actions-watchdog', String(pid), passwords], {
    // Does not inherit RUNNER_TRACKING_ID: the watchdog can exit a moment after us, and the runner would report it as
    // an orphan.
    env: { PATH: process.env.PATH },
    stdio: ['pipe', 'ignore', 'ignore'],
    // Starts its own process group, so that a signal to our group does not kill it.
    detached: true,
  })
  // Without a shell, there is no watchdog. The runner still finds the tool by RUNNER_TRACKING_ID.
  child.on('error', () => {})
  child.stdin?.on('error', () => {})
  child.unref()
  return child
}

/**
 * Runs a tool, reads its output line by line, and can reliably stop it. The tool has its own process group, so that a
 * signal also reaches the children of a wrapper script. Ctrl-C in a terminal does not reach the tool: the caller stops
 * it if the run is cancelled, and the watchdog kills it if this process dies.
 */
export class Child {
  /**
   * Resolves when the tool has exited and its output has been read. Does not wait for a descendant that keeps the pipes
   * open. Unless the exit code is 0, all descendants have been killed by then. Never rejects.
   */
  readonly exited: Promise<Exit>
  readonly pid: number | undefined
  readonly launch: Launch
  #process: ChildProcess
  #lastLines: string[] = []
  #exit: Exit | undefined
  #absent = false
  #over = false
  /** Resolves when no process of the group is left. Undefined until stop is requested. */
  #groupEnd: Promise<void> | undefined
  /** Time to send SIGKILL, in milliseconds of the monotonic clock. */
  #killAt = Number.POSITIVE_INFINITY

  constructor(launch: Launch) {
    this.launch = launch
    const log = new RotatingLog(launch.logFile)
    const hidden = launch.hidePasswords ? hidePasswords(launch.args, dirname(launch.logFile)) : undefined
    this.#process = spawn(launch.program, hidden?.args ?? launch.args, {
      env: childEnvironment({ ...launch.env, ...hidden?.env }),
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    this.pid = this.#process.pid
    const watch = this.pid === undefined ? undefined : watchdog(this.pid, hidden?.env.PGPASSFILE)
    for (const stream of ['stdout', 'stderr'] as const)
      void readLines(this.#process[stream] as NodeJS.ReadableStream, (line) => {
        launch.onLine(line, stream)
        const scrubbed = launch.scrub ? launch.scrub(line) : line
        if (scrubbed === undefined) return
        const clean = redact(scrubbed)
        log.write(clean)
        this.#remember(clean)
      })
    this.exited = new Promise((resolve) => {
      const end = (exit: Exit) => {
        // Node emits both `error` and `close` if a program cannot be started.
        if (this.#exit) return
        this.#exit = exit
        watch?.stdin?.end('over\n')
        hidden?.remove()
        log.close()
        resolve(this.#exit)
      }
      this.#process.on('error', (error: NodeJS.ErrnoException) => {
        this.#absent = error.code === 'ENOENT'
        this.#remember(redact(error.message))
        // Node also emits `error` if a signal cannot be sent, but then the tool is still running.
        if (this.pid === undefined) end({ code: null, signal: null })
      })
      this.#process.on('exit', (code) => {
        this.#over = true
        // A successful command may leave processes running on purpose, such as the application.
        if (code !== 0) this.#endGroup(TIMING.toolGrace)
        this.#letGoOfPipes()
      })
      this.#process.on('close', async (code, signal) => {
        await this.#groupEnd
        end({ code, signal })
      })
    })
  }

  get exit(): Exit | undefined {
    return this.#exit
  }

  /** The last line of output, or its `message` if it is JSON. Redacted and scrubbed. */
  get lastWords(): string {
    const last = this.#lastLines.at(-1) ?? 'nothing'
    return (/^\{.*"message":"((?:[^"\\]|\\.)*)"\}$/.exec(last)?.[1] ?? last).slice(0, 600)
  }

  /**
   * The last line that begins with `Error:` or `panic:`; undefined without one. Both tools print it at the end.
   * Redacted.
   */
  get errorLine(): string | undefined {
    const error = this.#lastLines.findLast((line) => /^(Error|panic):/i.test(line))
    return error?.replace(/^Error:\s*/i, '').slice(0, 600)
  }

  /** The error line, or the last line if there is no error line. Redacted. */
  get lastError(): string {
    return this.errorLine ?? this.lastWords
  }

  /** Whether the program itself has exited. Its descendants may still be running. */
  get over(): boolean {
    return this.#over
  }

  /**
   * Sends SIGTERM to the tool and its descendants, and SIGKILL after `graceMs`. Does nothing if the tool has exited.
   */
  async stop(graceMs = TIMING.toolGrace): Promise<Exit> {
    if (!this.#over) this.#endGroup(graceMs)
    return this.exited
  }

  /** Like {@link exited}, but stops the tool when `signal` aborts, with a grace period of 1 s. */
  async exitedOrStopped(signal: AbortSignal): Promise<Exit> {
    const stop = () => void this.stop(TIMING.toolStop)
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    const exit = await this.exited
    signal.removeEventListener('abort', stop)
    return exit
  }

  #endGroup(graceMs: number): void {
    this.#killAt = Math.min(this.#killAt, performance.now() + graceMs)
    this.#groupEnd ??= this.#signalUntilGone()
  }

  async #signalUntilGone(): Promise<void> {
    if (!this.#signalGroup('SIGTERM')) return
    while (performance.now() < this.#killAt) {
      await sleep(Math.min(TIMING.toolLook, Math.max(0, this.#killAt - performance.now())))
      if (!this.#signalGroup(0)) return
    }
    this.#signalGroup('SIGKILL')
  }

  /** @returns whether any process in the group is left */
  #signalGroup(signal: NodeJS.Signals | 0): boolean {
    if (this.pid === undefined) return false
    try {
      return process.kill(-this.pid, signal)
    } catch {
      return false
    }
  }

  /** Closes the pipes after a while, in case a descendant keeps them open. */
  #letGoOfPipes(): void {
    const { stdout, stderr } = this.#process
    // Waits one turn of the event loop, so that output that has already arrived is read first.
    const giveUp = () => setImmediate(() => [stdout, stderr].map((pipe) => pipe?.destroy()))
    const timer = setTimeout(giveUp, TIMING.pipeGrace)
    this.#process.once('close', () => clearTimeout(timer))
  }

  /** Builds the error that says how the tool ended. */
  failure(facts: { code?: ErrorCode; said?: string; advice?: string } = {}): ToolError {
    if (this.#absent && isTool(this.launch.program)) return notOnPath(this.launch.program)
    return new ToolError({
      code: facts.code ?? exitCode(this.#exit),
      program: this.launch.program.split('/').at(-1) as string,
      args: this.launch.args.map(redact),
      ending: describeExit(this.#exit),
      said: facts.said ?? this.lastWords,
      advice: facts.advice,
    })
  }

  #remember(line: string): void {
    if (!line.trim()) return
    this.#lastLines.push(line.slice(0, REMEMBERED))
    // After its error, `molt fetch` prints about fifty lines of usage.
    if (this.#lastLines.length > 100) this.#lastLines.shift()
  }
}

/** Whether a program is one of the MOLT tools, called by its bare name, as after `setup`. */
export function isTool(program: string): boolean {
  return program === 'molt' || program === 'replicator'
}

export function notOnPath(tool: string): ToolError {
  const ending = 'is not on the PATH. Run `setup` before this step in the same job'
  return new ToolError({ code: 'tool.not-installed', program: `\`${tool}\``, args: [], ending })
}

/** The error code, if only the exit is known. */
function exitCode(exit: Exit | undefined): ErrorCode {
  if (exit?.signal) return 'tool.killed'
  return exit?.code === null ? 'tool.not-started' : 'tool.failed'
}

export function describeExit(exit: Exit | undefined): string {
  if (!exit) return 'is still running'
  if (exit.signal) return `was killed by ${exit.signal}`
  return exit.code === null ? 'could not be started' : `ended with exit code ${exit.code}`
}

/**
 * A log file with a size limit and one rotated file, because a verbose replicator can write megabytes per minute for
 * days.
 */
class RotatingLog {
  #path: string
  #file: number
  #size = 0

  constructor(path: string) {
    this.#path = path
    this.#file = openSync(path, 'a', 0o600)
  }

  write(line: string): void {
    if (this.#size > LOG_LIMIT) {
      closeSync(this.#file)
      renameSync(this.#path, `${this.#path}.1`)
      this.#file = openSync(this.#path, 'a', 0o600)
      this.#size = 0
    }
    this.#size += writeSync(this.#file, `${line}\n`)
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** Maximum size of a metrics response, in characters. The replicator sends about 10 KiB per table. */
const METRICS_LIMIT = 32 << 20

/**
 * Reads a loopback URL and returns the response as text. Avoids `fetch`, which would load a whole HTTP client.
 * @throws if the request fails or times out, or the response is too long
 */
export function httpText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get(url, { signal: AbortSignal.timeout(TIMING.metricsTimeout) }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        body += chunk
        if (body.length > METRICS_LIMIT) request.destroy(new Error('the response is too long'))
      })
      response.on('end', () => resolve(body))
      response.on('error', reject)
    })
    request.on('error', reject)
  })
}
