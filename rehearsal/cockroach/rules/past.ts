// AS OF SYSTEM TIME, and the functions that return such times.
import { isAsOf, translate } from '../dialect.ts'
import { type Plan, quoteText, type RuleContext, raising, type StatementRule } from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'

export const PAST_RULES: StatementRule[] = [
  {
    id: 'past.as-of',
    says: 'SELECT … AS OF SYSTEM TIME reads the state at that time. This server keeps the state at each call of cluster_logical_timestamp() and half a second later, 12 states at most. It refuses any other time, a table rewritten since, and any statement except a single SELECT.',
    source: 'docs: as-of-system-time.md',
    plan: asOf,
  },
  {
    id: 'past.clock',
    says: 'cluster_logical_timestamp() returns the time of the current transaction, which reads no row written later. crdb_internal_mvcc_timestamp returns the time at which a row was written.',
    source: 'docs: functions-and-operators.md, as-of-system-time.md',
    plan: clock,
  },
]

function asOf(statement: Statement, { version, past }: RuleContext): Plan | undefined {
  const { tokens } = statement
  const clauses = tokens.flatMap((_, at) => (isAsOf(tokens, at) ? [tokens[at + 4] as Token] : []))
  if (!clauses.length) return undefined
  const [time] = clauses
  const refused = (what: string) => ({ sql: raising(new SqlError('0A000', `this server does not support ${what}`)) })
  if (!/^(select|with|\()$/.test(tokens[0]?.text.toLowerCase() ?? ''))
    return refused('AS OF SYSTEM TIME outside a single SELECT')
  if (time?.kind !== 'string' || !/^\d+(\.\d+)?$/.test(time.value))
    return refused('AS OF SYSTEM TIME with anything but a decimal timestamp in quotes')
  if (clauses.some(({ value }) => value !== time.value))
    return { sql: raising(new SqlError('0A000', 'cannot specify AS OF SYSTEM TIME with different timestamps')) }
  const sql = translate(statement, version)
  const names = new Set(tokens.map(({ value }) => value))
  return {
    sql,
    retryable: true,
    past: async (inTransaction) => {
      if (inTransaction) throw new SqlError('0A000', 'this server does not support AS OF SYSTEM TIME in a transaction')
      return { sql, snapshot: await past.at(time.value, names) }
    },
  }
}

const CALL = '_crdb.cluster_logical_timestamp()'

function clock(statement: Statement, { version, past }: RuleContext): Plan | undefined {
  const { tokens } = statement
  if (tokens[0]?.value !== 'select' || !tokens.some(({ value }) => value === 'cluster_logical_timestamp'))
    return undefined
  const sql = translate(statement, version)
  if (!sql.includes(CALL)) return undefined
  return {
    sql,
    retryable: true,
    past: async () => {
      const { time, snapshot } = await past.keep()
      return { sql: sql.replaceAll(CALL, `_crdb.cluster_logical_timestamp(${quoteText(time)})`), snapshot }
    },
  }
}
