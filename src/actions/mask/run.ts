import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { info, warning } from '@actions/core'
import { readMaskTables } from '../../masking/catalog.ts'
import { type CopyEnds, copyTables, discreet, exportSnapshot, refused } from '../../masking/copy.ts'
import { maskedSelect, type Plan } from '../../masking/decisions.ts'
import { makePlan, pasteRules } from '../../masking/plan.ts'
import { type Proof, prove } from '../../masking/proof.ts'
import { proposeRules } from '../../masking/propose.ts'
import { maskSummary } from '../../masking/report.ts'
import { fromEnv, KEEPS, keyProblem, type Rules, readRules } from '../../masking/rules.ts'
import { readSchema, type SchemaSql } from '../../masking/schema.ts'
import { domainKeys, openSession, setParameters, suppressLogging } from '../../masking/session.ts'
import { MEETS_CHECKS } from '../../masking/source-checks.ts'
import { close, lostMost, subsetPredicates } from '../../masking/subset.ts'
import { discardTables, requireRehearsal, runAll, setState, takeOver } from '../../masking/target.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, sqlState } from '../../runtime/database.ts'
import { InputError, messageOf, refuse, throwIfCancelled, UserError, VerdictError } from '../../runtime/errors.ts'
import { number, plural, seconds, someOf } from '../../runtime/progress.ts'
import { addSecret } from '../../runtime/secrets.ts'
import { tlsProblem } from '../../runtime/url.ts'
import { readSequences, readSourceSequences } from '../../sql/sequences.ts'
import { spec } from './spec.ts'

type Mask = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: async (context) => {
    requireTls(context.inputs)
    try {
      await (context.inputs.propose ? propose(context) : mask(context))
    } catch (error) {
      // The database's own message may quote a row value.
      throw sqlState(error) ? refused(error, 'mask.failed', 'masking') : error
    }
  },
}

/** Requires TLS, because `from` receives the masking key, and `to` receives rows that may not be fully masked. */
function requireTls(inputs: Mask['inputs']): void {
  for (const name of ['from', 'to'] as const) {
    const problem = inputs[name] && tlsProblem(inputs[name])
    if (!problem) continue
    if (!inputs.allowInsecure)
      throw new InputError(
        'input.insecure-url',
        `input \`${name}\`: ${problem}, so the masking key would travel unencrypted. Use sslmode=verify-full, or set \`allow-insecure: true\``,
      )
    warning(`\`allow-insecure\`: TLS is not enforced on the connection \`${name}\`: ${problem}`)
  }
}

async function propose(context: Mask): Promise<void> {
  const { from, rules, schema } = context.inputs
  if (existsSync(rules))
    throw new InputError(
      'mask.file-exists',
      `input \`rules\`: ${rules} already exists. Name a new file, because \`propose\` never overwrites one`,
    )
  const source = await openSession(from, 'source')
  try {
    await exportSnapshot(source)
    const { yaml, columns, todo } = await proposeRules(source, schema)
    write('rules', rules, yaml)
    info(`${rules}: rules for ${columns} columns, ${todo} of them marked TODO for a person to decide`)
    context.output('verdict', 'proposed')
    context.output('rules', rules)
    context.summary(
      `### Masking rules proposed\n\n\`${rules}\` has a rule for each of ${columns} columns; **${todo}** are marked \`TODO\`. Samples were matched inside the database; no value left it.`,
    )
  } finally {
    await source.end().catch(() => {})
  }
}

async function mask(context: Mask): Promise<void> {
  const { inputs } = context
  const rules = readRules(inputs.rules)
  const [key, canaries] = [readKey(rules), readCanaries(rules)]
  // Write early, so that an unwritable path fails now rather than after hours, and to overwrite an earlier run's
  // evidence.
  write('evidence', inputs.evidence, '{ "version": 1, "proved": false }\n')
  if (!inputs.to)
    throw new InputError('input.missing', 'input `to` is missing. Set it to the URL of the rehearsal source')
  if (!inputs.allowTarget)
    throw new InputError(
      'input.missing',
      'input `allow-target` is missing. Set it to the exact name of the database in `to`',
    )
  const source = await openSession(inputs.from, 'source')
  try {
    const target = await openSession(inputs.to, 'target')
    try {
      await requireRehearsal(source, target, inputs.allowTarget)
      await suppressLogging(source, 'source')
      await suppressLogging(target, 'target')
      await maskAll(context, { source, target, rules, key, canaries })
    } finally {
      await target.end().catch(() => {})
    }
  } finally {
    await source.end().catch(() => {})
  }
}

function write(input: string, path: string, text: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
  } catch (error) {
    throw new InputError(
      'mask.file-unwritable',
      `input \`${input}\`: ${path} cannot be written: ${messageOf(error).split('\n')[0]}`,
    )
  }
}

interface Job {
  source: Database
  target: Database
  rules: Rules
  key: string
  canaries: string[]
}

async function maskAll(context: Mask, job: Job): Promise<void> {
  const { inputs, signal } = context
  const { source, target, rules } = job
  const snapshot = await exportSnapshot(source)
  const all = await readMaskTables(source, inputs.schema)
  if (!all.length) throw new UserError('mask.no-tables', `the schema ${inputs.schema} of \`from\` has no tables`)
  const plan = makePlan(all, rules, inputs.schema)
  const where = subsetPredicates(plan, rules.subset ?? {})
  requirePlan(plan)
  const parameters = domainKeys(job.key, plan.domains)
  await setParameters(source, parameters)
  await requireChecks(source, plan)
  const tables = plan.tables.map(({ table }) => table)
  const sql = await readSchema(source, { schema: inputs.schema, tables })
  info(`schema read: ${plural(tables.length, 'table', 'tables')}`)
  throwIfCancelled(signal)
  const names = tables.map(({ name }) => name)
  await takeOver(target, inputs.schema, names)
  try {
    await runAll(target, sql.before, 'the schema')
    const started = Date.now()
    const ends: CopyEnds = {
      from: inputs.from,
      to: inputs.to as string,
      snapshot,
      parameters,
      atOnce: inputs.tablesAtOnce,
      signal,
    }
    const copied = await copyTables(await copyJobs(source, plan, where), ends, (table, rows) =>
      info(`${table}: ${number(rows)} rows`),
    )
    const durationMs = Date.now() - started
    info(`copied in ${seconds(durationMs)}`)
    await finish(source, target, plan, rules, sql, copied)
    throwIfCancelled(signal)
    const schema = [...sql.before, ...sql.after, ...sql.foreignKeys]
    const sides = { source, target, where, signal, ends }
    const provedFrom = Date.now()
    const proof = await prove(sides, plan, rules, copied, job.canaries, schema, (table, done) =>
      info(`proved ${table}: ${done} of ${tables.length}`),
    )
    info(`proof took ${seconds(Date.now() - provedFrom)}`)
    await conclude(context, job, { plan, proof, durationMs })
  } catch (error) {
    const said = sqlState(error) ? refused(error, 'mask.failed', 'masking') : (error as Error)
    said.message += `\n${await discard(inputs.to as string, inputs.schema, names)}`
    throw said
  }
}

/**
 * Drops the unproved copy after a failure.
 * @returns a sentence about what happened to it
 */
async function discard(to: string, schema: string, tables: readonly string[]): Promise<string> {
  try {
    const left = await discardTables(to, schema, tables)
    if (!left.length)
      return 'The new tables on the rehearsal source were dropped. Its WAL, statistics and backups may still hold their content. If that matters, use a fresh server.'
    return `UNPROVED ROWS ARE STILL THERE, in ${someOf(left, 10)}: the tables could not be dropped, because another session is reading or locking them. Drop the database.`
  } catch (error) {
    return `UNPROVED ROWS MAY STILL BE THERE: the rehearsal source could not be reached again (${discreet(error)}). Drop the database.`
  }
}

function readKey(rules: Rules): string {
  const name = rules.key.slice('env:'.length)
  const key = fromEnv(rules.key)
  if (key) addSecret(key)
  const problem = keyProblem(key)
  if (problem)
    throw new InputError(
      'mask.key-invalid',
      `the masking key in ${name} ${problem}. Create one with \`openssl rand -hex 32\` and keep it as a secret`,
    )
  return key as string
}

/**
 * Reads the canaries, which are known values that must not survive masking. Registers them as secrets, so that none
 * appears in a log.
 */
function readCanaries({ canaries = [] }: Rules): string[] {
  const list = typeof canaries === 'string' ? (fromEnv(canaries) ?? '').split('\n') : canaries
  const found = list.map((line) => line.trim()).filter(Boolean)
  if (typeof canaries === 'string' && !found.length)
    throw new InputError('mask.canaries-missing', `the rules take canaries from ${canaries}, which is empty. Set it`)
  for (const canary of found) addSecret(canary)
  return found
}

function requirePlan(plan: Plan): void {
  if (plan.unlisted.length)
    throw new VerdictError(
      'mask.unlisted-columns',
      `${plural(plan.unlisted.length, 'column is', 'columns are')} not covered by any rule or safe class. Nothing was copied. Paste the following into the rules file, and correct it:\n${pasteRules(plan.unlisted)}${plan.problems.map((problem) => `\nAlso: ${problem}`).join('')}`,
    )
  if (plan.problems.length)
    refuse(
      'mask.rules-misfit',
      'the rules do not fit the source',
      plan.problems,
      'Nothing was copied. Correct the rules file.',
    )
}

async function requireChecks(source: Database, plan: Plan): Promise<void> {
  const problems: string[] = []
  for (const { column, sql, problem } of plan.checks) {
    const { rows } = await source.query(sql).catch((error) => {
      const advice = sqlState(error) === '23514' ? `. Its values violate that check: ${MEETS_CHECKS}` : ''
      throw new UserError('mask.rule-failed', `the rule of ${column} fails: ${discreet(error)}${advice}`)
    })
    if (Number(rows[0].count)) problems.push(problem(Number(rows[0].count)))
  }
  if (problems.length)
    refuse(
      'mask.rules-misfit',
      'the rules do not fit the rows of the source',
      problems,
      'Nothing was copied. Correct the rules file.',
    )
}

async function copyJobs(source: Database, plan: Plan, where: ReadonlyMap<string, string>) {
  const { rows } = await source.query(
    `SELECT oid::int, (SELECT sum(pg_catalog.pg_relation_size(r.oid)) FROM (SELECT t.oid UNION
       SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = t.oid) r)::float8 AS size FROM unnest($1::oid[]) t(oid)`,
    [plan.tables.map(({ table }) => table.oid)],
  )
  const sizes = new Map(rows.map(({ oid, size }) => [oid, size]))
  return plan.tables.map((planned) => ({
    schema: plan.schema,
    table: planned.table.name,
    columns: planned.columns,
    select: maskedSelect(planned, where.get(planned.table.name)),
    size: sizes.get(planned.table.oid) ?? 0,
  }))
}

/**
 * Completes the copy: with `subset`, deletes rows that refer to rows outside the subset. Then adds constraints,
 * indexes, sequences and statistics.
 */
async function finish(
  source: Database,
  target: Database,
  plan: Plan,
  rules: Rules,
  sql: SchemaSql,
  copied: Map<string, number>,
): Promise<void> {
  if (rules.subset) {
    const gone = await close(target, plan)
    for (const each of lostMost(copied, gone)) warning(each)
    for (const [table, rows] of gone) {
      copied.set(table, (copied.get(table) ?? 0) - rows)
      info(`${table}: ${number(rows)} rows referred to rows outside the subset, and were deleted`)
    }
  }
  const started = Date.now()
  await runAll(target, sql.after, 'a constraint or index')
  await runAll(target, sql.foreignKeys, 'a foreign key')
  const there = new Set((await readSequences(target, plan.schema)).map(({ name }) => name))
  for (const { name, lastValue } of await readSourceSequences(source, plan.schema))
    if (lastValue !== null && there.has(name))
      await target.query('SELECT setval(format($1, $2::text, $3::text)::regclass, $4)', [
        '%I.%I',
        plan.schema,
        name,
        lastValue.toString(),
      ])
  await target.query('ANALYZE')
  info(`constraints, indexes and sequences in ${seconds(Date.now() - started)}`)
}

async function conclude(
  context: Mask,
  { target, rules }: Job,
  { plan, proof, durationMs }: { plan: Plan; proof: Proof; durationMs: number },
): Promise<void> {
  const { inputs } = context
  const rows = proof.tables.reduce((sum, { rowsAfter }) => sum + rowsAfter, 0)
  const masked = proof.columns.filter(({ what }) => what === 'masked').length
  const evidence = {
    version: 1,
    proved: proof.problems.length === 0,
    at: new Date().toISOString(),
    schema: plan.schema,
    rules: createHash('sha256').update(JSON.stringify(rules)).digest('hex'),
    durationMs,
    rows,
    // Exemptions from the proof that the rules state, with their reasons.
    allowed: rules.proof ?? {},
    keeps: Object.fromEntries(Object.entries(KEEPS).filter(([name]) => proof.columns.some(({ use }) => use === name))),
    ...proof,
  }
  write('evidence', inputs.evidence, `${JSON.stringify(evidence, null, 2)}\n`)
  context.summary(maskSummary(evidence))
  context.output('evidence', inputs.evidence)
  if (proof.problems.length)
    refuse(
      'mask.not-proved',
      'the masked copy is not proved',
      proof.problems,
      'Do not use this copy. Give these columns another rule, or state a reason under `proof`: `allow-survivors`, `allow-hits`, `allow-schema`.',
    )
  await setState(target, 'proved')
  for (const { table, column, looksLike } of proof.keptPersonal)
    warning(`${table}.${column} looks like ${looksLike}, but the rules keep it`)
  context.output('verdict', 'proved')
  context.output('tables', proof.tables.length)
  context.output('rows', rows)
  context.output('masked-columns', masked)
  context.output('duration-ms', durationMs)
  context.output('rules', inputs.rules)
}
