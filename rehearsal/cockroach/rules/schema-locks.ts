// `schema_locked`, on by default from 26.1: protects a table's definition from changes, which speeds up changefeeds.
import { split } from '../lexer.ts'
import { applies, CHANGE, type Plan, type RuleContext, type StatementRule } from '../rule.ts'
import { SqlError, type Statement, type Token, type Version } from '../types.ts'
import { requirePrivilege, resolveTable } from './grants.ts'
import { nameAt, nameBeforeAt, skipWords } from './names.ts'
import { clusterSetting, isOn } from './settings.ts'

const PARAMETER = 'schema_locked'

export const SCHEMA_LOCK_RULES: StatementRule[] = [
  {
    id: 'ddl.schema-lock',
    says: 'From 26.1, tables are created with schema_locked = true. ADD and DROP CONSTRAINT, and any change inside a transaction, are then refused (57000) until schema_locked is set to false. With sql.schema.auto_unlock.enabled off, every schema change is refused.',
    source: 'docs: v26.2 alter-table.md, online-schema-changes.md; v26.1.0-alpha.1 and v26.2.0-beta.3 release notes',
    plan: setLock,
  },
]

/** Whether tables without an entry are locked in this version. */
export const lockedByDefault = (version: Version) => applies({ since: [26, 1] }, version)

async function setLock({ tokens, sql }: Statement, context: RuleContext): Promise<Plan | undefined> {
  const at = tokens.findIndex(({ value, kind }) => kind === 'word' && value === PARAMETER)
  if (tokens[0]?.value !== 'alter' || tokens[1]?.value !== 'table' || tokens[at - 2]?.value !== 'set') return undefined
  const table = await resolveTable(nameAt(tokens, sql, skipWords(tokens, 2)) ?? '', context)
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      await requirePrivilege(table, 'CREATE', context)
      await context.commitOpen()
      await note(table.oid, isTrue(tokens[at + 2]), context)
    },
    tag: 'ALTER TABLE',
    ...CHANGE,
  }
}

const isTrue = (token: Token | undefined) => /^'?(true|on|1)'?$/i.test(token?.text ?? '')

async function note(oid: string, locked: boolean, context: RuleContext): Promise<void> {
  await context.admin('INSERT INTO _crdb.schema_locks VALUES ($1, $2) ON CONFLICT (relid) DO UPDATE SET locked = $2', [
    oid,
    locked,
  ])
}

/** Removes `WITH (schema_locked = …)`, which PostgreSQL lacks, and returns its value. */
export function withoutLock(statement: Statement): { statement: Statement; locked: boolean | undefined } {
  const { tokens, sql } = statement
  const at = tokens.findIndex(({ value, kind }) => kind === 'word' && value === PARAMETER)
  const [from, to] = [tokens[at - 2], tokens[at + 3]]
  if (at < 0 || from?.value !== 'with' || to?.text !== ')') return { statement, locked: undefined }
  const [plain] = split(sql.slice(0, from.start) + sql.slice(to.end))
  return { statement: { ...statement, ...plain }, locked: isTrue(tokens[at + 2]) }
}

/** Records the setting after a successful CREATE TABLE. */
export async function noteLock(name: string, said: boolean | undefined, context: RuleContext): Promise<void> {
  const locked = said ?? isOn('create_table_with_schema_locked', context)
  if (locked !== lockedByDefault(context.version)) await note((await resolveTable(name, context)).oid, locked, context)
}

/** @throws SqlError 57000 if the statement changes a locked table and cannot unlock it */
export async function requireUnlocked(
  { tokens, sql }: Statement,
  context: RuleContext,
  inTransaction: boolean,
): Promise<void> {
  const words = tokens.map(({ kind, value }) => (kind === 'word' ? value : ''))
  const [first, second] = words
  const constraint = words.some((word, at) => /^(add|drop)$/.test(word) && words[at + 1] === 'constraint')
  const parents = words.flatMap((word, at) => (word === 'references' ? [nameAt(tokens, sql, at + 1)] : []))
  const changed =
    first === 'alter' && second === 'table'
      ? [nameAt(tokens, sql, skipWords(tokens, 2)), ...parents]
      : first === 'drop' && second === 'index'
        ? [nameBeforeAt(tokens, sql)]
        : first === 'create' && words.includes('index')
          ? [nameAt(tokens, sql, skipWords(tokens, words.indexOf('on') + 1))]
          : []
  const unlocks =
    !inTransaction && !constraint && (await clusterSetting('sql.schema.auto_unlock.enabled', context)) !== 'false'
  if (unlocks) return
  for (const name of changed) if (name) await requireOne(name, context)
}

async function requireOne(written: string, context: RuleContext): Promise<void> {
  const { oid, name } = await resolveTable(written, context)
  const [noted] = await context.admin<{ locked: boolean }>('SELECT locked FROM _crdb.schema_locks WHERE relid = $1', [
    oid,
  ])
  if (!(noted?.locked ?? lockedByDefault(context.version))) return
  throw new SqlError(
    '57000',
    `this schema change is disallowed because table "${name}" is locked and this operation cannot automatically unlock the table`,
    { detail: `To unlock the table, execute \`ALTER TABLE ${name} SET (schema_locked = false);\`` },
  )
}
