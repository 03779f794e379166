import { randomBytes } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { own } from '../model/records.ts'
import type { Database } from '../runtime/database.ts'
import { plural } from '../runtime/progress.ts'
import { columnOf, fromItem, type MaskTable } from './catalog.ts'
import { type CopyEnds, openPair } from './copy.ts'
import { bare, type Decision, type Plan, type PlannedTable, TEXTS, textsOf } from './decisions.ts'
import { literalsOf, partsOf } from './literals.ts'
import { looksPersonal } from './names.ts'
import type { Rules } from './rules.ts'
import { setParameters } from './session.ts'
import { dangling } from './subset.ts'

/** Connections for the proof. The source connection uses the snapshot that was copied. */
export interface Sides {
  source: Database
  target: Database
  /** Predicates over `t` for the rows to copy, by table. */
  where: ReadonlyMap<string, string>
  signal: AbortSignal
  /** Where to open more connections, to prove several tables in parallel. */
  ends?: CopyEnds
}

/** Statistics of a column. Undefined when not measured. */
interface ColumnShape {
  nullShare: number
  averageLength?: number
  distinct?: number
  /** Number of rows with the most frequent value. */
  top?: number
}

export interface ColumnProof {
  table: string
  column: string
  what: Decision['what']
  use: string
  why: string
  before: ColumnShape
  after: ColumnShape
  /** Originals found among the masked values; undefined when they can occur by chance. */
  survivors?: number
}

interface TableProof {
  table: string
  rowsBefore: number
  rowsAfter: number
  /** Number of missing keys between the lowest and the highest. */
  keyGapsBefore?: number
  keyGapsAfter?: number
}

export interface Proof {
  problems: string[]
  tables: TableProof[]
  columns: ColumnProof[]
  /** Column → pattern → number of hits. Columns without hits are left out. */
  hits: { table: string; column: string; pattern: string; hits: number }[]
  scannedColumns: number
  canaries: { planted: number; rowsBefore: number; rowsAfter: number }
  /** Kept columns whose names suggest personal data, for the approver. */
  keptPersonal: { table: string; column: string; looksLike: string; reason: string }[]
  references: { from: string; to: string; danglingBefore: number; danglingAfter: number }[]
  constraints: number
}

/** Inputs and results shared by the proofs of all tables. */
interface Run {
  plan: Plan
  rules: Rules
  copied: ReadonlyMap<string, number>
  canaries: readonly string[]
  /** Texts in the schema: in defaults, checks, labels, bounds and predicates. */
  literals: readonly string[]
  /** Number of source rows with each canary. */
  seen: number[]
  proof: Proof
}

/**
 * Proves that the finished copy is correct. The checks read both databases, and do not trust what the copying reported.
 * @param schema the statements that created the schema, which can also contain a canary
 */
export async function prove(
  sides: Sides,
  plan: Plan,
  rules: Rules,
  copied: ReadonlyMap<string, number>,
  canaries: readonly string[],
  schema: readonly string[] = [],
  onTable: (table: string, done: number) => void = () => {},
): Promise<Proof> {
  const proof: Proof = {
    problems: [],
    tables: [],
    columns: [],
    hits: [],
    scannedColumns: 0,
    canaries: { planted: canaries.length, rowsBefore: 0, rowsAfter: 0 },
    keptPersonal: keptPersonal(plan),
    references: [],
    constraints: 0,
  }
  const literals = literalsOf(schema)
  const run: Run = { plan, rules, copied, canaries, literals, seen: canaries.map(() => 0), proof }
  await proveTables(sides, run, onTable)
  await scanSchema(sides.target, run)
  await proveReferences(sides, plan, rules.subset !== undefined, proof)
  await proveConstraints(sides, plan, proof)
  run.seen.forEach((rows, at) => {
    if (!rows)
      proof.problems.push(`canary ${at + 1} is nowhere on the source, so it proves nothing. Plant it, and run again`)
  })
  const statements = schema.map(lower)
  if (canaries.some((canary) => formsOf(canary).some((form) => statements.some((sql) => sql.includes(form)))))
    proof.problems.push('a planted canary is in the schema itself, in a default, a check, a label or an index')
  return proof
}

/** Proves several tables in parallel, largest first, each with its own connections to both sides. */
async function proveTables(sides: Sides, run: Run, onTable: (table: string, done: number) => void): Promise<void> {
  const { plan, copied, proof } = run
  let done = 0
  const rowsOf = ({ table }: PlannedTable) => copied.get(table.name) ?? 0
  const queue = [...plan.tables].sort((a, b) => rowsOf(b) - rowsOf(a))
  const work = async (pair: Sides) => {
    await setProofKey(pair, run)
    for (let planned = queue.shift(); planned; planned = queue.shift()) {
      sides.signal.throwIfAborted()
      await proveTable(pair, planned, run)
      await scan(pair.target, planned, run)
      await proveCanaries(pair, planned, run)
      onTable(planned.table.name, ++done)
    }
  }
  const more = async (ends: CopyEnds) => {
    const [source, target] = await openPair(ends)
    try {
      await work({ ...sides, source, target })
    } finally {
      await Promise.allSettled([source.end(), target.end()])
    }
  }
  const { ends } = sides
  const others = ends ? Array.from({ length: Math.min(ends.atOnce, queue.length) - 1 }, () => more(ends)) : []
  const ended = await Promise.allSettled(
    [work(sides), ...others].map((each) =>
      each.catch((error) => {
        queue.length = 0
        throw error
      }),
    ),
  )
  const failed = ended.find((each) => each.status === 'rejected')
  if (failed) throw failed.reason
  const place = new Map(plan.tables.map(({ table }, at) => [table.name, at]))
  for (const list of [proof.tables, proof.columns, proof.hits])
    list.sort((a, b) => (place.get(a.table) as number) - (place.get(b.table) as number))
}

/**
 * Sets a key for this proof alone, so that the hashes sent between the databases are useless afterwards. Disables nested
 * loops, because the planner assumes that a temporary table is small.
 */
async function setProofKey({ source, target }: Sides, { plan, literals }: Run): Promise<void> {
  const key = new Map([['molt_actions.proof', randomBytes(32).toString('hex')]])
  await Promise.all([setParameters(source, key), setParameters(target, key)])
  await target.query(
    `CREATE TEMP TABLE IF NOT EXISTS molt_originals (c int, h bytea, short boolean, n bigint);
     CREATE TEMP TABLE IF NOT EXISTS molt_schema (h bytea); TRUNCATE pg_temp.molt_schema;
     SET work_mem = '64MB'; SET enable_nestloop = off`,
  )
  await target.query(`INSERT INTO pg_temp.molt_schema SELECT DISTINCT ${digest('l')} FROM unnest($1::text[]) l`, [
    partsOf(literals),
  ])
  await hashKept(target, plan)
}

/** Minimum length in bytes. Shorter texts in kept columns can equal an original by chance. */
const LEAST_KEPT = 6

/**
 * Rules for values that identify a person. Excludes free text and documents, because their words also occur in other
 * columns.
 */
const PERSONAL = new Set(['hash', 'email', 'name', 'phone', 'address', 'uuid', 'card', 'sql'])

/**
 * Hashes the kept values on the rehearsal source, because a kept column with an unlisted reference can contain
 * originals.
 */
async function hashKept(target: Database, { tables }: Plan): Promise<void> {
  await target.query('CREATE TEMP TABLE IF NOT EXISTS molt_kept (t int, c int, h bytea); TRUNCATE pg_temp.molt_kept')
  for (const [place, { table, decisions }] of tables.entries()) {
    const texts = decisions.flatMap(({ column, what }, at) =>
      what === 'kept' && (TEXTS.has(column.family) || column.family === 'uuid')
        ? textsOf(columnOf(column.name), column).map((each) => `SELECT ${at}, x.v FROM (${each}) x(v)`)
        : [],
    )
    if (texts.length)
      await target.query(
        `INSERT INTO pg_temp.molt_kept SELECT DISTINCT ${place}, v.c, ${digest('v.v')}
           FROM ${fromItem(table)} AS t, LATERAL (${texts.join(' UNION ALL ')}) v(c, v) WHERE octet_length(v.v) >= ${LEAST_KEPT}`,
      )
  }
}

/** SQL for 64 bits of a text's hash, keyed with the proof's key. */
function digest(text: string): string {
  return `substring(sha256((SELECT decode(current_setting('molt_actions.proof'), 'hex')) || textsend(${text})) FROM 1 FOR 8)`
}

async function proveTable(sides: Sides, planned: PlannedTable, run: Run): Promise<void> {
  const { rules, copied, proof } = run
  const { table } = planned
  const where = sides.where.get(table.name)
  const [before, after] = await Promise.all([shapes(sides.source, planned, where), shapes(sides.target, planned)])
  proof.tables.push({
    table: table.name,
    rowsBefore: before.rows,
    rowsAfter: after.rows,
    ...(before.gaps !== undefined && { keyGapsBefore: before.gaps, keyGapsAfter: after.gaps }),
  })
  // `close` removes rows of a subset on purpose. Their references are proved separately.
  const planned2 = rules.subset ? copied.get(table.name) : before.rows
  if (after.rows !== planned2)
    proof.problems.push(`${table.name} has ${plural(after.rows, 'row')}, but ${planned2} were planned`)
  if (!rules.subset)
    for (const [at, { column, what, use }] of planned.decisions.entries())
      if (what !== 'generated' && !['null', 'sql'].includes(use) && before.filled[at] !== after.filled[at])
        proof.problems.push(
          `${table.name}.${column.name} has ${plural(after.filled[at] as number, 'non-NULL value')}, but ${before.filled[at]} on the source`,
        )
  const found = await survivors(sides, planned, run, before.rows)
  planned.decisions.forEach((decision, at) => {
    const { column, what, use, why } = decision
    const id = `${table.name}.${column.name}`
    const counts = found.get(at)
    proof.columns.push({
      table: table.name,
      column: column.name,
      what,
      use,
      why,
      before: { ...(before.columns[at] as ColumnShape), ...counts?.before },
      after: { ...(after.columns[at] as ColumnShape), ...counts?.after },
      ...(decision.strict && { survivors: counts?.survivors ?? 0 }),
    })
    if (decision.strict && counts?.survivors && !rules.proof?.['allow-survivors']?.[id])
      proof.problems.push(`${id}: found ${plural(counts.survivors, 'original value')} among the masked values`)
    else if (decision.strict && counts && counts.unmoved * 2 > counts.short && !rules.proof?.['allow-survivors']?.[id])
      proof.problems.push(
        `${id}: ${counts.unmoved} of ${counts.short} short values are as frequent as before, so they look unmasked`,
      )
    if (
      column.unique &&
      what === 'masked' &&
      counts &&
      counts.after.distinct !== counts.before.distinct &&
      !rules.subset &&
      !rules.proof?.sample
    )
      proof.problems.push(
        `${id} has ${counts.after.distinct} different values, but ${counts.before.distinct} on the source`,
      )
  })
}

/** Maximum number of columns per query. PostgreSQL allows 1,664. */
const MEASURES = 1_500

/** Measures rows, non-NULL values, lengths and key gaps of a table, in one pass unless it is very wide. */
async function shapes(db: Database, { table, decisions }: PlannedTable, where?: string) {
  const number = gapColumn(table)
  const measures = decisions.flatMap(({ column }, at) => {
    const value = columnOf(column.name)
    const sized = column.family === 'text' || column.family === 'json' || column.array
    return [`count(${value}) AS n${at}`, ...(sized ? [`avg(length(${value}::text))::float8 AS l${at}`] : [])]
  })
  if (number) measures.push(`(max(${number})::numeric - min(${number}) + 1 - count(${number}))::float8 AS gaps`)
  const row: Record<string, number | string | null> = {}
  for (const some of chunks(['count(*) AS rows', ...measures], MEASURES)) {
    const sql = `SELECT ${some.join(', ')} FROM ${fromItem(table)} AS t${where ? ` WHERE ${where}` : ''}`
    Object.assign(row, (await db.query(sql)).rows[0])
  }
  const total = Number(row.rows)
  const filled = decisions.map((_, at) => Number(row[`n${at}`]))
  const columns = filled.map((values, at): ColumnShape => {
    const length = row[`l${at}`] as number | null | undefined
    return {
      nullShare: total ? 1 - values / total : 0,
      ...(length !== undefined && length !== null && { averageLength: length }),
    }
  })
  return { rows: total, filled, columns, gaps: number ? Number(row.gaps ?? 0) : undefined }
}

function gapColumn(table: MaskTable): string | undefined {
  const [name, ...more] = table.key
  const column = table.columns.find((each) => each.name === name)
  return name && !more.length && column?.family === 'integer' ? columnOf(name) : undefined
}

interface Counts {
  before: { distinct: number; top: number }
  after: { distinct: number; top: number }
  survivors: number
  /** Number of rows whose value is too short to identify a person. */
  short: number
  /** Number of these rows whose value is as frequent as before. */
  unmoved: number
}

/** A value in this many rows of a masked column, such as a state, is probably a label or a default, not a secret. */
const SELDOM = 10

/** Minimum number of rows to sample, because a share of a small table can be zero rows. */
const LEAST_SAMPLE = 10_000

/**
 * Searches for the originals of every masked column: among the masked values of the table, and among values that a rule
 * `sql` produced in any table. Only 64 bits of each keyed hash leave the source. The key is discarded afterwards, and the
 * temporary table for the hashes writes no WAL.
 */
async function survivors(
  { source, target, signal }: Sides,
  { table, decisions }: PlannedTable,
  { plan, rules, proof }: Run,
  rowsBefore: number,
): Promise<Map<number, Counts>> {
  const values = valuesOf(decisions)
  if (!values) return new Map()
  const made = plan.tables.filter((each) => each.decisions.some(isSql))
  const spelled = made.length ? bareOf(decisions) : ''
  const { sample = 1, 'min-length': least = 4, 'allow-survivors': allowed = {} } = rules.proof ?? {}
  const hashed = (rows: string, list = values) =>
    `SELECT s.c, s.h, bool_and(s.short) AS short, count(*) AS n FROM (
       SELECT v.c, ${digest('v.v')} AS h,
              octet_length(v.v) < ${least} AS short
         FROM ${rows}, LATERAL (${list}) v(c, v) WHERE v.v <> '') s GROUP BY 1, 2`
  const originals = [values, spelled].filter(Boolean).join(' UNION ALL ')
  const share = Math.max(sample, LEAST_SAMPLE / rowsBefore)
  const sampled = share < 1 ? ` TABLESAMPLE BERNOULLI (${100 * share})` : ''
  await target.query('TRUNCATE pg_temp.molt_originals')
  await pipeline(
    source.query(copyTo(`COPY (${hashed(`${fromItem(table)} AS t${sampled}`, originals)}) TO STDOUT`)),
    target.query(copyFrom('COPY pg_temp.molt_originals FROM STDIN')),
    { signal },
  )
  const numbers = (wanted: (decision: Decision) => boolean) =>
    decisions.flatMap((decision, at) => (decision.strict && wanted(decision) ? [at] : [])).join(', ') || 'NULL'
  const [strict, personal] = [numbers(() => true), numbers(({ use }) => PERSONAL.has(use))]
  const { rows } = await target.query(
    `WITH masked AS MATERIALIZED (${hashed(`${fromItem(table)} AS t`)}),
       met AS (SELECT coalesce(m.c, o.c) AS c, count(o.h)::int AS "distinctBefore", coalesce(max(o.n), 0)::int AS "topBefore",
            count(m.h)::int AS "distinctAfter", coalesce(max(m.n), 0)::int AS "topAfter",
            coalesce(sum(m.n) FILTER (WHERE m.short), 0)::int AS short,
            coalesce(sum(m.n) FILTER (WHERE m.short AND m.n = o.n), 0)::int AS unmoved
       FROM masked m FULL JOIN pg_temp.molt_originals o ON o.c = m.c AND o.h = m.h GROUP BY 1),
       left_over AS (SELECT m.c, count(DISTINCT m.h)::int AS survivors FROM masked m JOIN pg_temp.molt_originals o ON o.h = m.h
         WHERE NOT o.short AND o.c IN (${strict}) AND (o.c = m.c OR m.c IN (${strict})) GROUP BY 1)
     SELECT met.*, coalesce(left_over.survivors, 0) AS survivors FROM met LEFT JOIN left_over USING (c)`,
  )
  const inSchema = await target.query(
    `SELECT count(DISTINCT h)::int AS n FROM pg_temp.molt_schema JOIN pg_temp.molt_originals o USING (h)
      WHERE NOT o.short AND o.n < ${SELDOM} AND o.c IN (${strict})`,
  )
  if (inSchema.rows[0].n && !rules.proof?.['allow-schema'])
    proof.problems.push(
      `${table.name}: found ${plural(inSchema.rows[0].n, 'original value')} in the schema, in a default, a check, a label or an index. Change them on the clone, or set \`allow-schema\` with a reason`,
    )
  const kept = await target.query(
    `SELECT k.t, k.c, count(DISTINCT k.h)::int AS n FROM pg_temp.molt_kept k JOIN pg_temp.molt_originals o USING (h)
      WHERE NOT o.short AND o.n < ${SELDOM} AND o.c IN (${personal}) GROUP BY 1, 2`,
  )
  for (const { t, c, n } of kept.rows) {
    const id = `${plan.tables[t]?.table.name}.${plan.tables[t]?.decisions[c]?.column.name}`
    if (!allowed[id])
      proof.problems.push(
        `${id} is kept, but contains ${plural(n, 'original value')} of masked columns of ${table.name}. Give it the same rule, or list it under \`references\``,
      )
  }
  for (const other of made) {
    const list = [other.table === table ? '' : valuesOf(other.decisions, isSql), bareOf(other.decisions, isSql)]
    const lists = list.filter(Boolean).join(' UNION ALL ')
    if (!lists) continue
    const strangers = await target.query(
      `SELECT c, max(n)::int AS n FROM (SELECT CASE WHEN m.c < 0 THEN -1 - m.c ELSE m.c END AS c, count(*) AS n
         FROM (${hashed(`${fromItem(other.table)} AS t`, lists)}) m
         JOIN (SELECT DISTINCT h FROM pg_temp.molt_originals WHERE NOT short AND (CASE WHEN c < 0 THEN -1 - c ELSE c END) IN (${strict})) o
        USING (h) GROUP BY m.c) s GROUP BY 1`,
    )
    for (const { c, n } of strangers.rows) {
      const id = `${other.table.name}.${other.decisions[c]?.column.name}`
      // Originals with the same spelling have already been reported.
      const known = other.table === table && rows.find((row) => row.c === c)?.survivors
      if (!allowed[id] && !known)
        proof.problems.push(`${id}: found ${plural(n, 'original value')} of ${table.name} among the masked values`)
    }
  }
  return new Map(
    rows.map((row) => [
      row.c,
      {
        before: { distinct: row.distinctBefore, top: row.topBefore },
        after: { distinct: row.distinctAfter, top: row.topAfter },
        survivors: row.survivors,
        short: row.short,
        unmoved: row.unmoved,
      },
    ]),
  )
}

/** The values of all masked columns of a row `t`, as SELECTs of the column's number and the text. */
function valuesOf(decisions: readonly Decision[], wanted: (decision: Decision) => boolean = () => true): string {
  return decisions
    .flatMap((decision, at) =>
      wanted(decision) ? decision.values.map((each) => `SELECT ${at}, x.v FROM (${each}) x(v)`) : [],
    )
    .join(' UNION ALL ')
}

const isSql = ({ use }: Decision) => use === 'sql'

/**
 * Like {@link valuesOf}, for texts reduced to their letters and digits, if at least six. Column numbers count down from
 * -1.
 */
function bareOf(decisions: readonly Decision[], wanted: (decision: Decision) => boolean = () => true): string {
  return decisions
    .flatMap((decision, at) => {
      const each = wanted(decision) && TEXTS.has(decision.column.family) ? decision.values : []
      return each.map(
        (values) =>
          `SELECT ${-1 - at}, y.v FROM (SELECT ${bare('x.v')} AS v FROM (${values}) x(v) OFFSET 0) y WHERE octet_length(y.v) >= 6`,
      )
    })
    .join(' UNION ALL ')
}

/** A character of a host name, in any script. */
const HOST = String.raw`[^\s@.,;:<>()"'\[\]{}/\\]`

/** Matches one of the alternatives, with no letter or digit on either side. */
const token = (...alternatives: string[]) => `(^|[^0-9A-Za-z.+-])(${alternatives.join('|')})($|[^0-9A-Za-z-])`

/** Excludes dates: a year preceded by a day or month, or followed by date parts. */
const NO_DATE = '(?<![0-9]/)(?!(0[1-9][./-])?[0-3]?[0-9][./-](19|20)[0-9]{2}($|[^0-9]))'

/** Patterns of personal data in free text. They exclude the unassigned hosts, numbers and issuers that rules produce. */
export const PATTERNS: Record<string, string> = {
  'e-mail': String.raw`[^\s@<>(),;:"']+@(?!([A-Za-z0-9-]+\.)*(example\.(com|net|org)|[a-z]+\.(example|invalid|test))(?![A-Za-z0-9-]|\.[A-Za-z0-9]))${HOST}+(\.${HOST}+)*\.(?!${HOST}*[0-9])${HOST}{2,}`,
  phone: token(
    String.raw`\+(?!999)[1-9][0-9 ().-]{7,17}[0-9]`,
    String.raw`${NO_DATE}\(?0[1-9][0-9]{0,3}\)?[ /.-][0-9]{2,4}[ .-]?[0-9]{2,4}[ .-]?[0-9]{0,4}`,
    '00[1-9][0-9]{0,2}[ /.-][0-9 ().-]{6,16}[0-9]',
    '0(?!999)[1-9][0-9]{8,9}',
    String.raw`(1[ .-])?(\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}`,
  ),
  'national id': token(
    '[0-9]{3}-[0-9]{2}-[0-9]{4}',
    String.raw`[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}`,
    String.raw`[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}`,
    '[0-9]{8}-[A-Z]',
    '[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]',
    '[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]',
    '[A-Z]{2}[0-9]{2}( ?[A-Z0-9]{4}){3,7}( ?[A-Z0-9]{1,3})?',
  ),
}

/**
 * Card numbers: grouped by four, like American Express, or in any other way. Issuers begin with 2 to 6; those that
 * `card` produces begin with 9.
 */
const CARDS = [
  '[2-6][0-9]{3}(?:SEP?[0-9]{4}){3}',
  '3[47][0-9]{2}SEP?[0-9]{6}SEP?[0-9]{5}',
  '[2-6][0-9]{3}(?:SEP?[0-9]){9,15}',
].map((card) => `(?:^|[^0-9A-Za-z])(${card.replaceAll('SEP', '[ .\u00a0-]')})(?![0-9A-Za-z])`)

/** Cheap conditions that are checked before a costly pattern. Most texts meet none of them. */
const NEEDS: Record<string, string> = { 'e-mail': "strpos(s.text, '@') > 0" }
const TWO_DIGITS = '[0-9][ ().-]*[0-9]'

const luhn = (digits: string) =>
  `(SELECT sum(CASE WHEN o % 2 = 1 THEN d ELSE d * 2 - CASE WHEN d > 4 THEN 9 ELSE 0 END END) % 10 = 0
     FROM (SELECT o, substr(reverse(${digits}), o::int, 1)::int AS d FROM generate_series(1, length(${digits})) o) y)`

/**
 * Counts the texts that match each pattern, by column number.
 * @param rows FROM items with a row `v(c, text)`: column number and text
 */
async function hitsOf(target: Database, rows: string, values: unknown[] = []) {
  const patterns = Object.keys(PATTERNS)
  const at = (index: number) => `$${values.length + index + 1}`
  const card = `CASE WHEN s.digits THEN EXISTS (SELECT FROM unnest(${at(0)}::text[]) r, regexp_matches(s.text, r, 'g') m(g),
    LATERAL (SELECT regexp_replace(m.g[1], '[^0-9]', '', 'g') AS digits OFFSET 0) d WHERE ${luhn('d.digits')}) END`
  const measures = [
    ...patterns.map(
      (name, p) =>
        `count(*) FILTER (WHERE CASE WHEN ${NEEDS[name] ?? 's.digits'} THEN s.text ~ ${at(p + 2)} END)::int AS "${name}"`,
    ),
    `count(*) FILTER (WHERE ${card})::int AS card`,
  ]
  const found = await target.query(
    `SELECT s.c, ${measures.join(', ')} FROM (SELECT v.c, v.text, v.text ~ ${at(1)} AS digits FROM ${rows} WHERE v.text <> '' OFFSET 0) s GROUP BY 1`,
    [...values, CARDS, TWO_DIGITS, ...Object.values(PATTERNS)],
  )
  return found.rows.flatMap((row) =>
    [...patterns, 'card'].flatMap((pattern) =>
      row[pattern] ? [{ at: row.c as number, pattern, hits: row[pattern] as number }] : [],
    ),
  )
}

/** Counts rows that match a pattern, in kept columns and in free text that was replaced or partly rewritten. */
async function scan(target: Database, { table, decisions }: PlannedTable, { rules, proof }: Run): Promise<void> {
  const ruled = own(rules.tables, table.name)
  const free = decisions.flatMap((decision, at) => {
    const { column } = decision
    return isFree(decision, own(ruled, column.name) !== undefined) ? [{ column, at }] : []
  })
  if (!free.length) return
  proof.scannedColumns += free.length
  const texts = free.map(({ column, at }) => {
    const text =
      column.family === 'bytea' && !column.array
        ? `encode(${columnOf(column.name)}, 'escape')`
        : `${columnOf(column.name)}::text`
    return `SELECT ${at}, ${text}`
  })
  const { 'max-hits': most = 0, 'allow-hits': allowed = {} } = rules.proof ?? {}
  for (const { at, pattern, hits } of await hitsOf(
    target,
    `${fromItem(table)} AS t, LATERAL (${texts.join(' UNION ALL ')}) v(c, text)`,
  )) {
    const column = decisions[at]?.column.name as string
    proof.hits.push({ table: table.name, column, pattern, hits })
    if (hits > most && !allowed[`${table.name}.${column}`])
      proof.problems.push(`${table.name}.${column}: possible ${pattern} in ${plural(hits, 'row')}`)
  }
}

/** Scans the schema for the same patterns, because everyone who can read the copy can read its schema. */
async function scanSchema(target: Database, { literals, rules, proof }: Run): Promise<void> {
  if (rules.proof?.['allow-schema']) return
  for (const { pattern, hits } of await hitsOf(target, 'unnest($1::text[]) l, LATERAL (SELECT 0, l) v(c, text)', [
    literals,
  ]))
    proof.problems.push(
      `the schema: possible ${pattern} in ${plural(hits, 'text')}, in a default, a check, a label or an index. Change them on the clone, or set \`allow-schema\` with a reason`,
    )
}

const MADE = new Set(['hash', 'email', 'name', 'phone', 'address', 'uuid', 'card', 'null', 'constant'])

/**
 * Whether a column can contain free text. It cannot if a rule generated its values or if the database assigns them.
 * @param ruled the column has its own rule
 */
function isFree({ column, what, use }: Decision, ruled: boolean): boolean {
  const { family } = column
  if (what === 'generated' || MADE.has(use)) return false
  if (family === 'text' || family === 'json') return true
  return (
    (what === 'kept' || use === 'sql') &&
    (family === 'other' || family === 'bytea' || (ruled && (family === 'integer' || family === 'numeric')))
  )
}

/** Kept columns whose names suggest personal data. Excludes surrogate keys. */
export function keptPersonal(plan: Plan): Proof['keptPersonal'] {
  return plan.tables.flatMap(({ table, decisions }) =>
    decisions.flatMap(({ column, what, why, numbersRow }) => {
      const looksLike = what === 'kept' && !numbersRow ? looksPersonal(column.name, table.name) : undefined
      return looksLike ? [{ table: table.name, column: column.name, looksLike, reason: why }] : []
    }),
  )
}

/** Proves each reference without a constraint: as many orphans as before, or none in a subset. */
async function proveReferences({ source, target }: Sides, plan: Plan, subset: boolean, proof: Proof): Promise<void> {
  const { schema } = plan
  const tables = new Map(plan.tables.map(({ table }) => [table.name, table]))
  for (const edge of plan.edges.filter(({ constraint }) => !constraint)) {
    const sql = `SELECT count(*)::int AS rows FROM ${fromItem(tables.get(edge.from) as MaskTable)} AS t WHERE ${dangling(edge, schema, fromItem(tables.get(edge.to) as MaskTable))}`
    const [before, after] = [await source.query(sql), await target.query(sql)]
    const found = {
      from: `${edge.from}.${edge.columns.join()}${edge.when ? ` (${edge.when.is})` : ''}`,
      to: `${edge.to}.${edge.toColumns.join()}`,
      danglingBefore: before.rows[0].rows as number,
      danglingAfter: after.rows[0].rows as number,
    }
    proof.references.push(found)
    if (found.danglingAfter !== (subset ? 0 : found.danglingBefore))
      proof.problems.push(
        `${found.from} → ${found.to}: ${plural(found.danglingAfter, 'orphaned row')} instead of ${subset ? 0 : found.danglingBefore}`,
      )
  }
}

/** Proves that each valid constraint and index of the source exists on the rehearsal source and is valid there. */
async function proveConstraints({ source, target }: Sides, plan: Plan, proof: Proof): Promise<void> {
  const names = plan.tables.map(({ table }) => table.name)
  const sql = `
    SELECT c.relname || '.' || k.conname AS name, k.convalidated AS valid
      FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = ANY ($2) AND k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.conparentid = 0
    UNION ALL SELECT c.relname || ' index ' || x.relname, i.indisvalid
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
      JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = ANY ($2)`
  const [before, after] = [await source.query(sql, [plan.schema, names]), await target.query(sql, [plan.schema, names])]
  const there = new Map<string, boolean>(after.rows.map(({ name, valid }) => [name, valid]))
  for (const { name, valid } of before.rows)
    if (!there.has(name)) proof.problems.push(`${name} is missing on the rehearsal source`)
    else if (valid && !there.get(name)) proof.problems.push(`${name} is not valid on the rehearsal source`)
  proof.constraints = [...there.values()].filter(Boolean).length
}

const NO_TEXT = new Set(['boolean', 'float', 'date', 'timestamp'])

/** Maximum number of arguments per function call. PostgreSQL allows 100. */
const ARGUMENTS = 90

/** Counts rows with a canary in any of its forms, on both sides. */
async function proveCanaries(sides: Sides, { table, decisions }: PlannedTable, run: Run): Promise<void> {
  const { canaries, seen, proof } = run
  const columns = decisions.filter(({ column }) => !NO_TEXT.has(column.family) || column.array)
  if (!canaries.length || !columns.length) return
  const texts = columns.map(({ column }) => `${columnOf(column.name)}::text`)
  const groups = chunks(texts, ARGUMENTS).map((group) => `concat_ws(E'\\x01', ${group.join(', ')})`)
  const row = `lower(concat_ws(E'\\x01', ${groups.join(', ')}) COLLATE "C")`
  const forms = canaries.map(formsOf)
  const parameters = forms.flat()
  const looks = forms.map((each, at) => {
    const found = each.map((form) => `strpos(s.line, $${parameters.indexOf(form) + 1}::text) > 0`)
    return `count(*) FILTER (WHERE ${found.join(' OR ')})::int AS "${at}"`
  })
  const sql = `SELECT ${looks.join(', ')} FROM (SELECT ${row} AS line FROM ${fromItem(table)} AS t OFFSET 0) s`
  const ask = async (db: Database) => (await db.query(sql, parameters)).rows[0] as Record<string, number>
  const [before, after] = await Promise.all([ask(sides.source), ask(sides.target)])
  let left = 0
  for (const at of canaries.keys()) {
    seen[at] = (seen[at] ?? 0) + (before[at] ?? 0)
    proof.canaries.rowsBefore += before[at] ?? 0
    left += after[at] ?? 0
  }
  proof.canaries.rowsAfter += left
  if (left) proof.problems.push(`${table.name}: planted canaries in ${plural(left, 'row')} of the rehearsal source`)
}

/** Lower-cases only ASCII letters, like `lower` with the collation C. */
const lower = (text: string) => text.replaceAll(/[A-Z]/g, (letter) => letter.toLowerCase())

/** The forms that a text can have in a row or a statement: plain, a quoted literal, JSON, an array or a row, hex, base64. */
function formsOf(canary: string): string[] {
  const bytes = Buffer.from(canary)
  const escaped = canary.replaceAll(/["\\]/g, '\\$&')
  const forms = [
    canary,
    canary.replaceAll("'", "''"),
    escaped,
    escaped.replaceAll(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`),
    canary.replaceAll('\\', '\\\\').replaceAll('"', '""'),
    bytes.toString('hex'),
    // Only whole groups of three bytes, because the rest depends on the next bytes.
    bytes.subarray(0, bytes.length - (bytes.length % 3)).toString('base64'),
  ]
  return [...new Set(forms.map(lower))]
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, at) => items.slice(at * size, (at + 1) * size))
}
