// One client's connection: reads each of its messages, and decides what to send to PostgreSQL.
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { split } from './lexer.ts'
import { opening, type Plan, raising } from './rule.ts'
import { type EndedTransaction, type Execution, withoutConstants } from './statistics.ts'
import { SqlError, type Statement } from './types.ts'
import * as wire from './wire.ts'

/** A failure that CockroachDB can cause at any time. */
export interface Fault {
  code: '40001' | '40003' | '53100'
  plan: Plan
}

/** What a connection needs from the server. */
export interface ConnectionHost {
  /** Extra milliseconds for each round trip. */
  latency: number
  /** Decides, at the configured rates, whether a statement must fail now, and which one. */
  fault(plans: readonly Plan[], inTransaction: boolean): Fault | undefined
  plan(statement: Statement): Promise<Plan>
  /** @throws SqlError when the statement uses an offline table */
  requireOnline(statement: Statement): void
  /** Maps a session variable's value for the client; undefined hides it. */
  parameterStatus(name: string, value: string): string | undefined
  /** Rewords PostgreSQL's error as CockroachDB would word it. */
  wording(fields: Map<string, string>): Map<string, string>
  backendKey(pid: number): void
  /** Called for each statement that the client executed. */
  executed(execution: Omit<Execution, 'application' | 'database'>): void
  transactionEnded(ended: Omit<EndedTransaction, 'application'>): void
}

/** A statement in progress. */
interface Running {
  statement: Statement
  /** `performance.now()` when the statement started. */
  began: number
  inTransaction: boolean
}

interface Prepared {
  statement: Statement | undefined
  plan: Plan
}

/** A client message that PostgreSQL has not answered yet. */
interface Pending {
  type: 'Q' | 'P' | 'B' | 'D' | 'E' | 'C' | 'S'
  plan?: Plan
  /** Statements of this message. Each is counted when its answer arrives. */
  running?: Running[]
  /** Sent by the server itself, so the client does not see the answer. */
  silent?: boolean
  /** Forwards this silent message's ReadyForQuery to the client, in place of one withheld earlier. */
  ready?: boolean
  /** Reports an ambiguous result (40003) in place of the last CommandComplete. */
  ambiguous?: boolean
  /** Withholds the ReadyForQuery, because more of the query text follows. */
  more?: boolean
  /** Withholds the ReadyForQuery even on failure, because the end of its transaction follows. */
  unready?: boolean
  done?: (failed: boolean) => void
  failed?: boolean
}

/** Statements that begin or end a transaction; they are not counted. */
const CONTROL = /^(begin|start|commit|end|rollback|abort|savepoint|release)$/
const EMPTY: Plan = { sql: '' }
const AMBIGUOUS = 'result is ambiguous: error=rpc error: code = Unavailable desc = connection closed [propagate]'
/** Error code → message, for faults that prevent execution. With 40003, the statement may have been executed. */
const REFUSALS = {
  '40001':
    'restart transaction: TransactionRetryWithProtoRefreshError: TransactionRetryError: retry txn (RETRY_SERIALIZABLE - failed preemptive refresh)',
  '53100': 'disk full',
} as const

/** @throws SqlError for a fault that keeps the statement from being executed */
function refuse(code: Fault['code'] | undefined): void {
  if (code && code !== '40003') throw new SqlError(code, REFUSALS[code])
}

export class Connection {
  readonly #client: Duplex
  readonly #backend: Duplex
  readonly #host: ConnectionHost
  readonly #fromClient = new wire.Framer()
  readonly #fromBackend = new wire.Framer()
  readonly #queue: wire.Frame[] = []
  readonly #statements = new Map<string, Prepared>()
  readonly #pending: Pending[] = []
  #working = false
  /** Number of prepared statements sent to raise an error in place of the client's statement. */
  #raised = 0
  #ready = false
  /** Transaction status: `I` idle, `T` in a transaction, `E` failed. */
  #status = 'I'
  #idle: (() => void)[] = []
  /**
   * Whether the server opened a transaction for AS OF SYSTEM TIME. The transaction ends with the client's statement.
   */
  #looksBack = false

  /** Expects both ends open, and the client's StartupMessage already sent to PostgreSQL. */
  constructor(client: Duplex, backend: Duplex, host: ConnectionHost) {
    this.#client = client
    this.#backend = backend
    this.#host = host
    this.#pump(client, backend, (chunk) => this.#queueFrames(chunk))
    this.#pump(backend, client, (chunk) => this.#answers(chunk))
  }

  get inTransaction(): boolean {
    return this.#status !== 'I'
  }

  /** Commits the open transaction on the client's behalf. */
  async commitOpen(): Promise<void> {
    await this.quiet()
    if (this.#status === 'T') await this.#silently('COMMIT')
  }

  /** Whether a transaction is open once everything sent so far is done. */
  async hasOpen(): Promise<boolean> {
    await this.quiet()
    return this.inTransaction
  }

  /** Resolves when PostgreSQL has answered everything sent. */
  async quiet(): Promise<void> {
    if (!this.#pending.length) return
    this.#backend.write(wire.FLUSH)
    await new Promise<void>((done) => this.#idle.push(done))
  }

  close(): void {
    this.#client.destroy()
    this.#backend.destroy()
  }

  #pump(from: Duplex, to: Duplex, take: (chunk: Buffer) => void): void {
    from.on('data', (chunk: Buffer) => {
      take(chunk)
      if (to.writableNeedDrain) {
        from.pause()
        to.once('drain', () => from.resume())
      }
    })
    from.on('error', () => this.close())
    from.on('end', () => to.end())
    from.on('close', () => this.close())
  }

  #queueFrames(chunk: Buffer): void {
    this.#queue.push(...this.#fromClient.push(chunk))
    if (!this.#working) void this.#work()
  }

  async #work(): Promise<void> {
    this.#working = true
    try {
      for (let frame = this.#queue.shift(); frame; frame = this.#queue.shift()) await this.#fromClientFrame(frame)
    } catch {
      this.close()
    }
    this.#working = false
  }

  async #fromClientFrame(frame: wire.Frame): Promise<void> {
    switch (frame.type) {
      case 'Q':
        return this.#simple(wire.texts(frame.body, 1).values[0] as string)
      case 'P':
        return this.#parse(frame.body)
      case 'B':
        return this.#bind(frame)
      case 'D':
      case 'E':
        return this.#send(frame.raw, { type: frame.type, ...this.#bound })
      case 'C':
        return this.#send(frame.raw, { type: 'C' })
      case 'S':
        await this.#delay()
        this.#send(frame.raw, { type: 'S', silent: this.#looksBack })
        return this.#endLook()
      default:
        this.#backend.write(frame.raw)
    }
  }

  /**
   * The statement of the last Bind. Portal names are ignored, because clients execute a portal right after binding it.
   */
  #bound: { plan: Plan; ambiguous: boolean; running?: Running[] } = { plan: EMPTY, ambiguous: false }

  #send(raw: Buffer, pending: Pending): void {
    this.#pending.push(pending)
    this.#backend.write(raw)
  }

  async #delay(): Promise<void> {
    if (this.#host.latency) await sleep(this.#host.latency)
  }

  async #planned(statement: Statement): Promise<Plan> {
    return this.#host.plan(statement).catch((error) => ({ sql: raising(asSqlError(error)) }))
  }

  async #parse(body: Buffer): Promise<void> {
    const { values, rest } = wire.texts(body, 2)
    const [name, sql] = values as [string, string]
    const { statements, problem } = splitOrProblem(sql)
    const [statement] = statements
    const plan = problem ? { sql: raising(problem) } : statement ? await this.#planned(statement) : EMPTY
    // PostgreSQL refuses several statements in one Parse.
    const text = statements.length > 1 ? sql : await this.#sqlOf(plan)
    this.#statements.set(name, { statement, plan })
    this.#send(wire.message('P', name, text, rest), { type: 'P' })
  }

  async #bind(frame: wire.Frame): Promise<void> {
    const { values } = wire.texts(frame.body, 2)
    const [portal, name] = values as [string, string]
    const { statement, plan } = this.#statements.get(name) ?? { statement: undefined, plan: EMPTY }
    let error: SqlError | undefined
    const began = performance.now()
    const fault = this.#host.fault([plan], this.inTransaction)?.code
    try {
      if (statement) this.#host.requireOnline(statement)
      refuse(fault)
      await plan.before?.()
      if (plan.past && !this.#looksBack && !this.inTransaction)
        throw new SqlError(
          '0A000',
          'this server supports AS OF SYSTEM TIME only in statements that are executed right after they are prepared',
        )
    } catch (thrown) {
      error = asSqlError(thrown)
    }
    const running = statement ? [{ ...this.#begin(statement), began }] : []
    this.#bound = { plan, ambiguous: fault === '40003', running }
    if (!error) return this.#send(frame.raw, { type: 'B', running })
    const raise = `_crdb_raise_${this.#raised++}`
    this.#pending.push({ type: 'P', silent: true })
    this.#backend.write(wire.message('P', raise, raising(error), wire.int16(0)))
    this.#bound = { plan: EMPTY, ambiguous: false, running }
    this.#send(wire.message('B', portal, raise, wire.int16(0), wire.int16(0), wire.int16(0)), { type: 'B', running })
  }

  async #simple(text: string): Promise<void> {
    await this.#delay()
    const { statements, problem } = splitOrProblem(text)
    if (problem) return this.#send(wire.query(raising(problem)), { type: 'Q' })
    if (!statements.length) return this.#send(wire.query(''), { type: 'Q' })
    const plans = await Promise.all(statements.map((statement) => this.#planned(statement)))
    // If PostgreSQL can run all statements unchanged, send them together, as one implicit transaction.
    if (plans.length > 1 && plans.every((plan) => !plan.before && !plan.tag && !plan.past))
      return this.#batch(statements, plans)
    for (const [at, plan] of plans.entries()) {
      const failed = await this.#one(statements[at] as Statement, plan, at + 1 < plans.length)
      if (failed) return
    }
  }

  /** Runs the statements of one query text atomically. */
  async #batch(statements: readonly Statement[], plans: readonly Plan[]): Promise<void> {
    const begins = CONTROL.test(opening(statements[0] as Statement, 1))
    const fault = this.#host.fault(plans, this.inTransaction || begins)
    let sent = [...plans]
    if (fault && fault.code !== '40003') {
      const failing = { sql: raising(new SqlError(fault.code, REFUSALS[fault.code])) }
      // A failing COMMIT ends the transaction too, so nothing before it is sent.
      if (fault.plan.commits && this.inTransaction) await this.#silently('ROLLBACK')
      sent = fault.plan.commits ? [failing] : [...plans.slice(0, plans.indexOf(fault.plan)), failing]
    }
    this.#send(wire.query(sent.map(({ sql }) => sql).join(';\n')), {
      type: 'Q',
      running: statements.slice(0, sent.length).map((statement) => this.#begin(statement)),
      ambiguous: fault?.code === '40003',
    })
  }

  /** Runs one statement of a query text. @returns whether it failed; known only if more statements follow */
  async #one(statement: Statement, plan: Plan, more: boolean): Promise<boolean> {
    const running = [this.#begin(statement)]
    const fault = this.#host.fault([plan], this.inTransaction)?.code
    let sql = await this.#sqlOf(plan)
    try {
      this.#host.requireOnline(statement)
      refuse(fault)
      await plan.before?.()
    } catch (thrown) {
      // A failing COMMIT ends the transaction too.
      if (plan.commits) await this.#silently('ROLLBACK')
      sql = raising(asSqlError(thrown))
    }
    const pending: Pending = { type: 'Q', plan, running, ambiguous: fault === '40003', unready: this.#looksBack }
    if (!more) {
      this.#send(wire.query(sql), pending)
      this.#endLook()
      return false
    }
    const failed = await new Promise<boolean>((done) => {
      this.#send(wire.query(sql), { ...pending, more: true, done })
    })
    this.#endLook(failed)
    return failed
  }

  /** The SQL to send for a plan. For AS OF SYSTEM TIME, first opens a transaction with the snapshot of that time. */
  async #sqlOf(plan: Plan): Promise<string> {
    if (!plan.past) return plan.sql
    await this.quiet()
    try {
      const { sql, snapshot } = await plan.past(this.inTransaction)
      if (this.inTransaction) return sql
      await this.#silently(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '${snapshot}'`)
      this.#looksBack = true
      return sql
    } catch (error) {
      return raising(asSqlError(error))
    }
  }

  /** @param ready whether the client waits for a ReadyForQuery */
  #endLook(ready = true): void {
    if (this.#looksBack) this.#send(wire.query('ROLLBACK'), { type: 'Q', silent: true, ready })
    this.#looksBack = false
  }

  #silently(sql: string): Promise<void> {
    return new Promise((done) => {
      this.#send(wire.query(sql), { type: 'Q', silent: true, done: () => done() })
    })
  }

  #answers(chunk: Buffer): void {
    const out: Buffer[] = []
    for (const frame of this.#fromBackend.push(chunk)) {
      const answer = this.#ready ? this.#answer(frame) : this.#greeting(frame)
      if (answer) out.push(answer)
    }
    if (out.length) this.#client.write(out.length === 1 ? (out[0] as Buffer) : Buffer.concat(out))
    if (!this.#pending.length) for (const done of this.#idle.splice(0)) done()
  }

  /** Handles PostgreSQL's messages up to the first ReadyForQuery: authentication and parameters. */
  #greeting(frame: wire.Frame): Buffer | undefined {
    if (frame.type === 'Z') this.#ready = true
    if (frame.type === 'K') this.#host.backendKey(frame.body.readInt32BE(0))
    if (frame.type === 'E') return wire.errorResponse(this.#host.wording(wire.readFields(frame.body)))
    return frame.type === 'S' ? this.#parameter(frame) : frame.raw
  }

  #parameter(frame: wire.Frame): Buffer | undefined {
    const [name, value] = wire.texts(frame.body, 2).values as [string, string]
    const heard = this.#host.parameterStatus(name, value)
    return heard === undefined ? undefined : wire.message('S', name, heard)
  }

  #answer(frame: wire.Frame): Buffer | undefined {
    const head = this.#pending[0]
    if (frame.type === 'S') return this.#parameter(frame)
    if (frame.type === 'N' || frame.type === 'A' || !head) return head?.silent ? undefined : frame.raw
    switch (frame.type) {
      case '1':
      case '2':
      case '3':
        this.#pending.shift()
        return head.silent ? undefined : frame.raw
      case 'T':
      case 'n':
        if (head.type === 'D') this.#pending.shift()
        return head.silent ? undefined : frame.raw
      case 'C':
        return this.#complete(frame, head)
      case 's':
      case 'I':
        if (head.type === 'E') this.#pending.shift()
        return head.silent ? undefined : frame.raw
      case 'E':
        return this.#failed(frame, head)
      case 'Z':
        return this.#readyForQuery(frame, head)
      default:
        return head.silent ? undefined : frame.raw
    }
  }

  #complete(frame: wire.Frame, head: Pending): Buffer | undefined {
    if (head.type === 'E') this.#pending.shift()
    if (head.silent) return undefined
    const ambiguous = head.ambiguous && (head.running?.length ?? 0) <= 1
    this.#executed(
      head,
      Number(/(\d+)\0$/.exec(frame.body.toString('latin1'))?.[1] ?? 0),
      ambiguous ? '40003' : undefined,
    )
    if (ambiguous) return wire.errorResponse(wire.errorFields(new SqlError('40003', AMBIGUOUS)))
    return head.plan?.tag ? wire.message('C', head.plan.tag) : frame.raw
  }

  #failed(frame: wire.Frame, head: Pending): Buffer | undefined {
    head.failed = true
    if (!head.silent) this.#executed(head, 0, wire.readFields(frame.body).get('C'))
    // Later messages are skipped until the client's Sync.
    if (head.type !== 'Q') while (this.#pending[0] && this.#pending[0].type !== 'S') this.#pending.shift()
    return head.silent && head.type === 'Q'
      ? undefined
      : wire.errorResponse(this.#host.wording(wire.readFields(frame.body)))
  }

  #begin(statement: Statement): Running {
    return { statement, began: performance.now(), inTransaction: this.inTransaction }
  }

  /** Statements executed since the last transaction ended. */
  #transaction: { began: number; statements: string[]; rows: number } | undefined

  #executed(head: Pending, rows: number, error: string | undefined): void {
    const now = performance.now()
    const running = head.running?.shift()
    if (head.running?.[0]) head.running[0].began = now
    if (!running || CONTROL.test(running.statement.tokens[0]?.value ?? '')) return
    const { statement, began, inTransaction } = running
    this.#host.executed({ statement, ms: now - began, rows, inTransaction, ...(error && { error }) })
    this.#transaction ??= { began, statements: [], rows: 0 }
    this.#transaction.statements.push(withoutConstants(statement))
    this.#transaction.rows += rows
  }

  #transactionEnded(): void {
    if (!this.#transaction) return
    const { began, statements, rows } = this.#transaction
    this.#host.transactionEnded({ statements, ms: performance.now() - began, rows })
    this.#transaction = undefined
  }

  #readyForQuery(frame: wire.Frame, head: Pending): Buffer | undefined {
    this.#pending.shift()
    this.#status = String.fromCharCode(frame.body[0] as number)
    if (!this.inTransaction) this.#transactionEnded()
    head.done?.(head.failed ?? false)
    if (head.ready) return frame.raw
    return head.silent || head.unready || (head.more && !head.failed) ? undefined : frame.raw
  }
}

function asSqlError(error: unknown): SqlError {
  if (error instanceof SqlError) return error
  const code = (error as { code?: string }).code
  return new SqlError(/^[0-9A-Z]{5}$/.test(code ?? '') ? (code as string) : 'XXUUU', (error as Error).message)
}

function splitOrProblem(sql: string): { statements: Statement[]; problem?: SqlError } {
  try {
    return { statements: split(sql) }
  } catch (error) {
    return { statements: [], problem: new SqlError('42601', `lexical error: ${(error as Error).message}`) }
  }
}
