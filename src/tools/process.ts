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

/** How a child process ended: with an exit code, or by a signal. */
export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Launch {
  program: string
  args: readonly string[]
  /** Added to the few variables that each child gets. */
  env?: Record<string, string>
  /** File for its whole output, redacted and scrubbed, mode 600, at most twice `LOG_LIMIT`. */
  logFile: string
  /**
   * Removes customers' values from a line before it is written or remembered; `onLine` gets the original. Undefined
   * drops the line.
   */
  scrub?(line: string): string | undefined
  /**
   * Passes the passwords of the URLs in `args` in a file, off the process list. For programs that support PGPASSFILE.
   */
  hidePasswords?: boolean
  onLine(line: string, stream: 'stdout' | 'stderr'): void
}

const REMEMBERED = 2_000
const LOG_LIMIT = 64 * 1024 * 1024

/**
 * Ends a tool and its descendants when its parent dies: a killed parent cannot, and a surviving replicator would hold
 * the slot. The pipe breaks whenever the parent dies; a line in it means a normal end.
 */
const WATCHDOG = `trap '' INT TERM HUP
read -r over && exit 0
kill -s TERM -- "-$1" 2>/dev/null
[ -z "$2" ] || rm -f "$2"
for i in 1 2 3 4 5 6 7 8 9 10; do kill -s 0 -- "-$1" 2>/dev/null || exit 0; sleep 0.5; done
kill -s KILL -- "-$1" 2>/dev/null`

function watchdog(pid: number, passwords = ''): ChildProcess {
  const child = spawn('/bin/sh', ['-c', WATCHDOG, 'molt-actions-watchdog', String(pid), passwords], {
    // Not RUNNER_TRACKING_ID: it can end a moment after us, and is not an orphan.
    env: { PATH: process.env.PATH },
    stdio: ['pipe', 'ignore', 'ignore'],
    // It must survive whatever ends our process group.
    detached: true,
  })
  // Without a shell there is no watchdog, but the runner still finds the tool by RUNNER_TRACKING_ID.
  child.on('error', () => {})
  child.stdin?.on('error', () => {})
  child.unref()
  return child
}

/**
 * A long-running tool: its lines as they arrive, its last line, and a stop that always ends it. It leads its own
 * process group, so that a signal reaches more than a shell around it. A terminal's Ctrl-C therefore reaches it only
 * through us: the caller stops it when the run is cancelled, and the watchdog when we die.
 */
export class Child {
  /**
   * Resolves when it has ended and its output is read, or shortly after if a descendant keeps the pipes open. Its
   * descendants have then ended too, unless it exited with code 0. Never rejects.
   */
  readonly exited: Promise<Exit>
  readonly pid: number | undefined
  readonly launch: Launch
  #process: ChildProcess
  #lastLines: string[] = []
  #exit: Exit | undefined
  #absent = false
  #over = false
  /** The end of the whole group once requested, and when it is forced. */
  #groupEnd: Promise<void> | undefined
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
        // A program that cannot be started emits both `error` and `close`.
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
        // A signal that could not be sent is an error too, but not an end.
        if (this.pid === undefined) end({ code: null, signal: null })
      })
      this.#process.on('exit', (code) => {
        this.#over = true
        // Processes that a command leaves on purpose, such as the application, must survive. All others are ended.
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

  /** Its last line, or the message in it when it is JSON. Redacted and scrubbed. */
  get lastWords(): string {
    const last = this.#lastLines.at(-1) ?? 'nothing'
    return (/^\{.*"message":"((?:[^"\\]|\\.)*)"\}$/.exec(last)?.[1] ?? last).slice(0, 600)
  }

  /** The last line that begins with `Error:`, with which both tools end; undefined without one. Redacted. */
  get errorLine(): string | undefined {
    const error = this.#lastLines.findLast((line) => /^(Error|panic):/i.test(line))
    return error?.replace(/^Error:\s*/i, '').slice(0, 600)
  }

  /** The line that begins with `Error:`, otherwise the last line. Redacted. */
  get lastError(): string {
    return this.errorLine ?? this.lastWords
  }

  /** Whether the program itself has ended, apart from its descendants. */
  get over(): boolean {
    return this.#over
  }

  /**
   * Sends SIGTERM to it and its descendants, and SIGKILL when one outlives the grace period (milliseconds). Does
   * nothing if it has ended.
   */
  async stop(graceMs = TIMING.toolGrace): Promise<Exit> {
    if (!this.#over) this.#endGroup(graceMs)
    return this.exited
  }

  /** Like {@link exited}, but stops it when `signal` aborts, with one second to end. */
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

  /** @returns whether any process is left */
  #signalGroup(signal: NodeJS.Signals | 0): boolean {
    if (this.pid === undefined) return false
    try {
      return process.kill(-this.pid, signal)
    } catch {
      return false
    }
  }

  /** A descendant that keeps the pipes open must not delay us. Without one they close long before. */
  #letGoOfPipes(): void {
    const { stdout, stderr } = this.#process
    // Earlier output is read first, even if we were too busy to read it before.
    const giveUp = () => setImmediate(() => [stdout, stderr].map((pipe) => pipe?.destroy()))
    const timer = setTimeout(giveUp, TIMING.pipeGrace)
    this.#process.once('close', () => clearTimeout(timer))
  }

  /** The error for how it ended. */
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

/** MOLT's programs by bare name, as they are after `setup`. */
export function isTool(program: string): boolean {
  return program === 'molt' || program === 'replicator'
}

export function notOnPath(tool: string): ToolError {
  const ending = 'is not on the PATH: run `setup` before this step in the same job'
  return new ToolError({ code: 'tool.not-installed', program: `\`${tool}\``, args: [], ending })
}

/** The code of a failure when only the program's ending is known. */
function exitCode(exit: Exit | undefined): ErrorCode {
  if (exit?.signal) return 'tool.killed'
  return exit?.code === null ? 'tool.not-started' : 'tool.failed'
}

export function describeExit(exit: Exit | undefined): string {
  if (!exit) return 'is still running'
  if (exit.signal) return `was ended by ${exit.signal}`
  return exit.code === null ? 'could not be started' : `ended with exit code ${exit.code}`
}

/** Rotates between two files: a verbose replicator writes megabytes per minute, for days. */
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

/** Maximum size of a metrics response, in bytes; a replicator's has about 10 KiB per table. */
const METRICS_LIMIT = 32 << 20

/**
 * Reads the text at a loopback URL, completely or not at all, with a time limit. Avoids `fetch`, which would load a
 * whole HTTP client for one plain request.
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
