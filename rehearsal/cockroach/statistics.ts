// Statistics of clients' statements as in CockroachDB's `crdb_internal`: per hour, by application, database and
// statement text without constants.
import type pg from 'pg'
import type { Statement, Token } from './types.ts'

/** One execution of a statement. */
export interface Execution {
  application: string
  database: string
  statement: Statement
  ms: number
  rows: number
  /** SQLSTATE of a failure. */
  error?: string
  /** Whether the statement ran in a transaction with other statements. */
  inTransaction: boolean
}

/** A finished transaction of one or more statements. */
export interface EndedTransaction {
  application: string
  /** Statement texts without constants. */
  statements: readonly string[]
  ms: number
  rows: number
}

/** Welford's running mean, and the sum of squared differences from it. */
class Numeric {
  mean = 0
  sqDiff = 0
  #count = 0

  add(value: number): void {
    this.#count++
    const before = value - this.mean
    this.mean += before / this.#count
    this.sqDiff += before * (value - this.mean)
  }
}

interface Counted {
  hour: number
  application: string
  database: string
  /** Statement text without constants. */
  query: string
  /** The last text from a client, for EXPLAIN. It is never shown. */
  sample: string
  implicit: boolean
  calls: number
  failures: number
  lastError: string
  rows: Numeric
  seconds: Numeric
  fullScan: boolean
  /** Whether the statement was executed since its plan was last examined. */
  changed: boolean
}

interface CountedTransactions {
  hour: number
  application: string
  statements: string
  calls: number
  rows: Numeric
  seconds: Numeric
}

const HOUR = 3_600_000
/** Stands for the remaining items of a VALUES or IN list. */
const MORE = '__more__'

export class Statistics {
  readonly #statements = new Map<string, Counted>()
  readonly #transactions = new Map<string, CountedTransactions>()
  #publishing: Promise<void> = Promise.resolve()

  count({ application, database, statement, ms, rows, error, inTransaction }: Execution): void {
    const hour = Math.floor(Date.now() / HOUR)
    const query = withoutConstants(statement)
    const key = JSON.stringify([hour, application, database, query, inTransaction])
    const known = this.#statements.get(key)
    const counted: Counted = known ?? {
      hour,
      application,
      database,
      query,
      sample: '',
      implicit: !inTransaction,
      calls: 0,
      failures: 0,
      lastError: '',
      rows: new Numeric(),
      seconds: new Numeric(),
      fullScan: false,
      changed: true,
    }
    if (!known) this.#statements.set(key, counted)
    counted.sample = statement.sql
    counted.calls++
    counted.rows.add(rows)
    counted.seconds.add(ms / 1000)
    counted.changed = true
    if (!error) return
    counted.failures++
    counted.lastError = error
  }

  countTransaction({ application, statements, ms, rows }: EndedTransaction): void {
    const hour = Math.floor(Date.now() / HOUR)
    const key = JSON.stringify([hour, application, statements])
    const counted = this.#transactions.get(key) ?? {
      hour,
      application,
      statements: JSON.stringify(statements),
      calls: 0,
      rows: new Numeric(),
      seconds: new Numeric(),
    }
    this.#transactions.set(key, counted)
    counted.calls++
    counted.rows.add(rows)
    counted.seconds.add(ms / 1000)
  }

  /**
   * Writes the statistics to the table that this database's `crdb_internal` reads.
   * @param explain returns a statement's plan as JSON; undefined if there is none
   */
  publish(admin: pg.Pool, database: string, explain?: Explain): Promise<void> {
    const next = this.#publishing.then(() => this.#publish(admin, database, explain))
    this.#publishing = next.catch(() => {})
    return next
  }

  async #publish(admin: pg.Pool, database: string, explain: Explain | undefined) {
    for (const each of this.#statements.values()) {
      if (!explain || !each.changed || each.database !== database) continue
      each.changed = false
      const plan = await explain(each.sample)
      each.fullScan ||= plan !== undefined && readsAll(plan)
    }
    const statements = [...this.#statements.values()].map(statementRow)
    const transactions = [...this.#transactions.values()].map(transactionRow)
    await admin.query(REPLACE, [JSON.stringify(statements), JSON.stringify(transactions)])
  }
}

const REPLACE = `
  WITH gone AS (DELETE FROM _crdb.statement_stats), past AS (DELETE FROM _crdb.transaction_stats), kept AS (
    INSERT INTO _crdb.statement_stats SELECT to_timestamp(hour * 3600), app_name, metadata, statistics
      FROM jsonb_to_recordset($1::jsonb) r(hour int8, app_name text, metadata jsonb, statistics jsonb))
  INSERT INTO _crdb.transaction_stats SELECT to_timestamp(hour * 3600), app_name, metadata, statistics
    FROM jsonb_to_recordset($2::jsonb) r(hour int8, app_name text, metadata jsonb, statistics jsonb)`

const numeric = ({ mean, sqDiff }: Numeric) => ({ mean, sqDiff })

function statementRow(each: Counted) {
  return {
    hour: each.hour,
    app_name: each.application,
    metadata: {
      query: each.query,
      db: each.database,
      fullScan: each.fullScan,
      implicitTxn: each.implicit,
      stmtType: /^(INSERT|UPDATE|DELETE|UPSERT|SELECT|VALUES|WITH|TABLE)\b/i.test(each.query) ? 'TypeDML' : 'TypeDDL',
    },
    statistics: {
      statistics: {
        cnt: each.calls,
        // This server never retries a statement, so each execution is a first attempt.
        firstAttemptCnt: each.calls,
        maxRetries: 0,
        failureCount: each.failures,
        lastErrorCode: each.lastError,
        numRows: numeric(each.rows),
        svcLat: numeric(each.seconds),
      },
      // This server does not sample contention.
      execution_statistics: { cnt: 0 },
    },
  }
}

function transactionRow({ hour, application, statements, calls, rows, seconds }: CountedTransactions) {
  return {
    hour,
    app_name: application,
    metadata: { stmtFingerprintIDs: JSON.parse(statements) },
    statistics: {
      statistics: { cnt: calls, maxRetries: 0, numRows: numeric(rows), svcLat: numeric(seconds) },
      execution_statistics: { cnt: 0 },
    },
  }
}

type Explain = (sql: string) => Promise<PlanNode | undefined>

/** A node of PostgreSQL's EXPLAIN (FORMAT JSON). */
export interface PlanNode {
  'Node Type': string
  'Index Cond'?: string
  Plans?: PlanNode[]
}

/** Whether a plan reads a whole table or index. */
function readsAll({ 'Node Type': node, 'Index Cond': condition, Plans = [] }: PlanNode): boolean {
  const whole = node === 'Seq Scan' || (/^(Index Scan|Index Only Scan|Bitmap Index Scan)$/.test(node) && !condition)
  return whole || Plans.some(readsAll)
}

/**
 * The statement with `_` in place of each constant and placeholder, and with lists of them shortened to `(_,
 * __more__)`.
 */
export function withoutConstants({ tokens }: Statement): string {
  const texts = tokens.map(hidden)
  const kept: string[] = []
  for (let at = 0; at < texts.length; at++) {
    kept.push(texts[at] as string)
    if (texts[at] !== '_' || texts[at + 1] !== ',' || texts[at + 2] !== '_') continue
    let end = at
    while (texts[end + 1] === ',' && texts[end + 2] === '_') end += 2
    // Only a list that consists of placeholders alone is shortened: `(_, _, _)`.
    if (kept.at(-2) !== '(' || texts[end + 1] !== ')') continue
    kept.push(',', MORE)
    at = end
  }
  return moreRows(kept)
    .join(' ')
    .replace(/ (?=[),.;])|(?<=[(.]) /g, '')
}

/** Shortens `VALUES (_, _), (_, _)` to `VALUES (_, __more__), (__more__)`. */
function moreRows(texts: readonly string[]): string[] {
  const kept: string[] = []
  for (let at = 0; at < texts.length; at++) {
    kept.push(texts[at] as string)
    if (texts[at] !== ')' || texts[at + 1] !== ',' || texts[at + 2] !== '(' || !texts.slice(0, at).includes('VALUES'))
      continue
    let end = at
    while (texts[end + 1] === ',' && texts[end + 2] === '(') {
      const close = texts.indexOf(')', end + 2)
      if (close < 0) break
      end = close
    }
    kept.push(',', '(', MORE, ')')
    at = end
  }
  return kept
}

function hidden({ kind, text, value }: Token): string {
  if (kind === 'string' || kind === 'number' || kind === 'param') return '_'
  if (kind === 'word') return value === 'values' ? 'VALUES' : text
  return text
}
