import { randomBytes } from 'node:crypto'
import { warning } from '@actions/core'
import { checkpoint } from '../runtime/checkpoint.ts'
import { type Database, ident, qualified, sqlState } from '../runtime/database.ts'
import { messageOf, refuse } from '../runtime/errors.ts'
import { number } from '../runtime/progress.ts'
import type { Deferred } from './deferral.ts'
import { readTarget } from './server.ts'

/*
 * Finds definitions that the server would refuse, before anything is dropped: builds one definition of each form on
 * empty copies of its tables. The name of the copies' schema is written to the ledger first, so that the next run can
 * clean up if this run is killed.
 */

/** Time limit for all forms together, in milliseconds. Each form is a schema change on CockroachDB. */
const TRIAL_LIMIT = 60_000

/** A unique name for the schema of the copies. */
export const trialSchema = () => `molt_actions_trial_${randomBytes(6).toString('hex')}`

/**
 * Builds one object of each form on empty copies in `schema`, which is always dropped afterwards.
 * @throws VerdictError `deferral.trial-failed` with each object that cannot be rebuilt
 */
export async function tryDefinitions(target: Database, schema: string, objects: readonly Deferred[]): Promise<void> {
  const forms = [...new Map(objects.map((object) => [formOf(object), object])).values()]
  if (!forms.length) return
  const { isCockroach } = await readTarget(target)
  const problems: string[] = []
  const end = performance.now() + TRIAL_LIMIT
  let tried = 0
  try {
    await build(target, `CREATE SCHEMA ${ident(schema)}`)
    checkpoint('trial schema made')
    for (const [at, object] of forms.entries()) {
      if (performance.now() > end) break
      await tryOne(target, { schema, at, isCockroach }, object).catch((error) =>
        problems.push(
          `${object.kind} ${object.schema}.${object.table}.${object.name}: ${messageOf(error)} (${object.create})`,
        ),
      )
      tried++
    }
  } finally {
    await dropTrial(target, schema)
  }
  if (problems.length)
    refuse(
      'deferral.trial-failed',
      'definitions cannot be rebuilt on the target, so nothing was dropped',
      problems,
      'Change these definitions on the target, or set `defer: none` or `trial: none`, then run `prepare` again.',
    )
  if (tried < forms.length)
    warning(
      `only ${number(tried)} of ${number(forms.length)} forms of deferred definitions were tried, because the time limit is 60 s`,
    )
}

/** Runs a statement, and repeats it if its outcome is unknown (40003). In that case, its object may already exist. */
async function build(target: Database, statement: string): Promise<void> {
  try {
    await target.query(statement)
  } catch (error) {
    if (sqlState(error) !== '40003') throw error
    await target.query(statement).catch((again) => {
      if (!IS_THERE.test(sqlState(again) ?? '')) throw again
    })
  }
}

/** SQLSTATEs of a schema, relation or other object that already exists. */
const IS_THERE = /^(42P06|42P07|42710)$/

/** Drops the schema of the copies, including one left behind by an earlier run. Safe to repeat. */
export async function dropTrial(target: Database, schema: string | null | undefined): Promise<void> {
  if (schema) await target.query(`DROP SCHEMA IF EXISTS ${ident(schema)} CASCADE`)
}

/**
 * The form of a definition: its statement without names, so that definitions that differ only in names have the same
 * form.
 */
function formOf({ kind, create }: Deferred): string {
  return `${kind} ${create.replace(/"(?:[^"]|"")*"|\b[a-z_][\w$]*\b/g, (word) => (KEYWORDS.test(word) ? word : '_'))}`
}

const KEYWORDS =
  /^(unique|nulls|not|distinct|include|storing|using|btree|gin|gist|hash|inverted|where|desc|first|last|only|deferrable|initially|deferred|check|inherit|valid|foreign|match|full|set|null|default|cascade|restrict|on|delete|update|sharded|lower|upper|coalesce)$/i

interface Place {
  schema: string
  /** Number of the form, which makes the names of its copies unique. */
  at: number
  isCockroach: boolean
}

async function tryOne(target: Database, place: Place, object: Deferred): Promise<void> {
  const own = await copyOf(target, place, 't', qualified(object.schema, object.table))
  const [, before, referred, columns] = FOREIGN_KEY.exec(object.create) ?? []
  if (before === undefined || referred === undefined) return build(target, renamed(object, own, object.create))
  const itself = parts(referred).at(-1) === object.table
  const other = itself ? own : await copyOf(target, place, 'r', referred)
  await build(target, `CREATE UNIQUE INDEX ${ident(`u${place.at}`)} ON ${other} (${columns})`)
  const create = object.create.replace(`${before}${referred}`, () => `${before}${other}`)
  await build(target, renamed(object, own, create))
}

const NAME = String.raw`(?:"(?:[^"]|"")*"|[^\s".(]+)`
const FOREIGN_KEY = new RegExp(String.raw`(\) REFERENCES )(${NAME}(?:\.${NAME})*) ?\(([^)]*)\)`)
const ON_TABLE = new RegExp(String.raw`^(CREATE .*?INDEX .*? ON (?:ONLY )?)${NAME}(?:\.${NAME})*`, 's')

const parts = (name: string) =>
  [...name.matchAll(new RegExp(NAME, 'g'))].map(([part]) => part.replace(/^"|"$/g, '').replaceAll('""', '"'))

/** Creates an empty copy that has only the table's columns. */
async function copyOf(
  target: Database,
  { schema, at, isCockroach }: Place,
  letter: string,
  table: string,
): Promise<string> {
  const copy = qualified(schema, `${letter}${at}`)
  // A locked table refuses constraints: see schema-lock.ts.
  await build(target, `CREATE TABLE ${copy} (LIKE ${table})${isCockroach ? ' WITH (schema_locked = false)' : ''}`)
  return copy
}

/** Rewrites the statement to apply to the copy of the object's table. */
function renamed({ schema, table }: Deferred, copy: string, create: string): string {
  const alter = `ALTER TABLE ${qualified(schema, table)} `
  if (create.startsWith(alter)) return `ALTER TABLE ${copy} ${create.slice(alter.length)}`
  return create.replace(ON_TABLE, (_, before: string) => `${before}${copy}`)
}
