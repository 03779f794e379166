import { randomBytes } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import type { Database } from '../runtime/database.ts'
import { columnOf, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import { looksPersonal } from './names.ts'
import type { Decision, Plan, PlannedTable } from './plan.ts'
import type { Rules } from './rules.ts'
import { setParameters } from './session.ts'
import { dangling } from './subset.ts'

/** Both sides while the proof runs: the source within the snapshot that was copied. */
export interface Sides {
  source: Database
  target: Database
  /** Predicates over `t` for the rows that were meant to come. */
  where: ReadonlyMap<string, string>
  signal: AbortSignal
}

/** One column before and after; numbers only. Undefined where it was not measured. */
export interface ColumnShape {
  nullShare: number
  averageLength?: number
  distinct?: number
  /** Rows with the most frequent value. */
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
  /** Originals found among the masked values; undefined where none could be told from chance. */
  survivors?: number
}

export interface TableProof {
  table: string
  rowsBefore: number
  rowsAfter: number
  /** Numbers left out between the lowest and the highest key. */
  keyGapsBefore?: number
  keyGapsAfter?: number
}

export interface Proof {
  problems: string[]
  tables: TableProof[]
  columns: ColumnProof[]
  /** Hits of each pattern by column; those with none are left out. */
  hits: { table: string; column: string; pattern: string; hits: number }[]
  scannedColumns: number
  canaries: { planted: number; rowsBefore: number; rowsAfter: number }
  /** Kept columns whose name speaks of a person, for the approver. */
  keptPersonal: { table: string; column: string; looksLike: string; reason: string }[]
  references: { from: string; to: string; danglingBefore: number; danglingAfter: number }[]
  constraints: number
}

/** Everything that is shown afterwards: each check looks at the databases, none at what the copy reported. */
export async function prove(
  sides: Sides,
  plan: Plan,
  rules: Rules,
  copied: ReadonlyMap<string, number>,
  canaries: readonly string[],
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
  await setProofKey(sides)
  for (const planned of plan.tables) {
    sides.signal.throwIfAborted()
    await proveTable(sides, planned, rules, copied, proof)
    await scan(sides.target, planned, rules, proof)
  }
  await proveReferences(sides, plan, rules.subset !== undefined, proof)
  await proveConstraints(sides, plan, proof)
  await proveCanaries(sides, plan, canaries, proof)
  return proof
}

/** A key for this proof alone: what is compared between the two databases is of no use to anybody afterwards. */
async function setProofKey({ source, target }: Sides): Promise<void> {
  const key = new Map([['molt_actions.proof', randomBytes(32).toString('hex')]])
  await Promise.all([setParameters(source, key), setParameters(target, key)])
  await target.query(
    'CREATE TEMP TABLE molt_originals (c int, h bytea, short boolean, n bigint); SET default_statistics_target = 1',
  )
}

async function proveTable(
  sides: Sides,
  planned: PlannedTable,
  rules: Rules,
  copied: ReadonlyMap<string, number>,
  proof: Proof,
): Promise<void> {
  const { table } = planned
  const where = sides.where.get(table.name)
  const [before, after] = [await shapes(sides.source, planned, where), await shapes(sides.target, planned)]
  proof.tables.push({
    table: table.name,
    rowsBefore: before.rows,
    rowsAfter: after.rows,
    ...(before.gaps !== undefined && { keyGapsBefore: before.gaps, keyGapsAfter: after.gaps }),
  })
  // Rows that a cycle's closure took away are missing by intent, and their references are proved instead.
  const planned2 = rules.subset ? copied.get(table.name) : before.rows
  if (after.rows !== planned2) proof.problems.push(`${table.name} has ${after.rows} rows, and ${planned2} were to come`)
  const found = await survivors(sides, planned, rules.proof ?? {})
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
      proof.problems.push(`${id}: ${counts.survivors} original values are found among the masked ones`)
    if (
      column.unique &&
      what === 'masked' &&
      counts &&
      counts.after.distinct !== counts.before.distinct &&
      !rules.subset &&
      !rules.proof?.sample
    )
      proof.problems.push(`${id} had ${counts.before.distinct} different values and has ${counts.after.distinct}`)
  })
}

/** Rows, NULLs, lengths and key gaps of a table in one pass. */
async function shapes(db: Database, { table, decisions }: PlannedTable, where?: string) {
  const measures = decisions.flatMap(({ column }, at) => {
    const value = columnOf(column.name)
    const sized = column.family === 'text' || column.family === 'json' || column.array
    return [`count(${value}) AS n${at}`, ...(sized ? [`avg(length(${value}::text))::float8 AS l${at}`] : [])]
  })
  const number = gapColumn(table)
  if (number) measures.push(`(max(${number}) - min(${number}) + 1 - count(${number}))::float8 AS gaps`)
  const { rows } = await db.query(
    `SELECT count(*) AS rows, ${measures.join(', ')} FROM ${fromItem(table)} AS t${where ? ` WHERE ${where}` : ''}`,
  )
  const [row] = rows
  const total = Number(row.rows)
  const columns = decisions.map((_, at): ColumnShape => {
    const length = row[`l${at}`] as number | null | undefined
    return {
      nullShare: total ? 1 - Number(row[`n${at}`]) / total : 0,
      ...(length !== undefined && length !== null && { averageLength: length }),
    }
  })
  return { rows: total, columns, gaps: number ? (row.gaps ?? 0) : undefined }
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
}

/**
 * Looks for the originals of every masked column among its masked values. What travels is 64 bits of a hash under a
 * key that is forgotten afterwards, and it travels into a temporary table, which leaves nothing in the WAL.
 */
async function survivors(
  { source, target, signal }: Sides,
  { table, decisions }: PlannedTable,
  settings: NonNullable<Rules['proof']>,
): Promise<Map<number, Counts>> {
  const values = decisions.flatMap(({ values }, at) => values.map((each) => `SELECT ${at}, x.v FROM (${each}) x(v)`))
  if (!values.length) return new Map()
  const { sample = 1 } = settings
  const key = `(SELECT decode(current_setting('molt_actions.proof'), 'hex'))`
  const hashed = (rows: string) =>
    `SELECT s.c, s.h, bool_and(s.short) AS short, count(*) AS n FROM (
       SELECT v.c, substring(sha256(${key} || convert_to(v.v, 'UTF8')) FROM 1 FOR 8) AS h,
              length(v.v) < ${settings['min-length'] ?? 4} AS short
         FROM ${rows}, LATERAL (${values.join(' UNION ALL ')}) v(c, v) WHERE v.v <> '') s GROUP BY 1, 2`
  const sampled = sample < 1 ? ` TABLESAMPLE BERNOULLI (${100 * sample})` : ''
  await target.query('TRUNCATE pg_temp.molt_originals')
  await pipeline(
    source.query(copyTo(`COPY (${hashed(`${fromItem(table)} AS t${sampled}`)}) TO STDOUT`)),
    target.query(copyFrom('COPY pg_temp.molt_originals FROM STDIN')),
    { signal },
  )
  const { rows } = await target.query(
    `WITH masked AS (${hashed(`${fromItem(table)} AS t`)})
     SELECT coalesce(m.c, o.c) AS c, count(o.h)::int AS "distinctBefore", coalesce(max(o.n), 0)::int AS "topBefore",
            count(m.h)::int AS "distinctAfter", coalesce(max(m.n), 0)::int AS "topAfter",
            count(*) FILTER (WHERE m.h IS NOT NULL AND o.h IS NOT NULL AND NOT o.short)::int AS survivors
       FROM masked m FULL JOIN pg_temp.molt_originals o ON o.c = m.c AND o.h = m.h GROUP BY 1`,
  )
  return new Map(
    rows.map((row) => [
      row.c,
      {
        before: { distinct: row.distinctBefore, top: row.topBefore },
        after: { distinct: row.distinctAfter, top: row.topAfter },
        survivors: row.survivors,
      },
    ]),
  )
}

/** What would be personal in free text. Hosts, numbers and issuers that nobody has, which the rules make, do not count. */
export const PATTERNS: Record<string, string> = {
  'e-mail': String.raw`[A-Za-z0-9._%+-]+@(?!([A-Za-z0-9-]+\.)*(example\.(com|net|org)|[a-z]+\.(example|invalid|test))\M)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}`,
  phone: String.raw`(^|[^0-9A-Za-z.+-])(\+(?!999)[1-9][0-9 ().-]{7,17}[0-9]|\(?0[1-9][0-9]{0,3}\)?[ /.-][0-9]{2,4}[ .-]?[0-9]{2,4}[ .-]?[0-9]{0,4}|[2-9][0-9]{2}[-.][2-9][0-9]{2}[-.][0-9]{4})($|[^0-9A-Za-z])`,
  'national id': String.raw`(^|[^0-9A-Za-z-])([0-8][0-9]{2}-[0-9]{2}-[0-9]{4}|[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}|[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]|[A-Z]{2}[0-9]{2}( ?[A-Z0-9]{4}){3,7}( ?[A-Z0-9]{1,3})?)($|[^0-9A-Za-z-])`,
}

/** Issuers begin with 2 to 6; those that `card` makes begin with 9. */
const CARD = '(?:^|[^0-9A-Za-z])([2-6][0-9]{3}(?:[ -]?[0-9]){9,15})(?![0-9A-Za-z])'

const luhn = (digits: string) =>
  `(SELECT sum(CASE WHEN o % 2 = 1 THEN d ELSE d * 2 - CASE WHEN d > 4 THEN 9 ELSE 0 END END) % 10 = 0
     FROM (SELECT o, substr(reverse(${digits}), o::int, 1)::int AS d FROM generate_series(1, length(${digits})) o) y)`

/** Counts rows of free text that hold something of a pattern: columns that were kept, filled, or rewritten inside. */
async function scan(target: Database, { table, decisions }: PlannedTable, rules: Rules, proof: Proof): Promise<void> {
  const free = decisions.filter(({ column, what, use }) => isFree(column, what, use))
  if (!free.length) return
  proof.scannedColumns += free.length
  const measures = free.flatMap(({ column }, at) => {
    const text = `${columnOf(column.name)}::text`
    const card = `${text} ~ '[2-6][0-9]{3}' AND EXISTS (SELECT FROM regexp_matches(${text}, $1, 'g') m(g),
      LATERAL (SELECT translate(m.g[1], ' -', '') AS digits OFFSET 0) d WHERE ${luhn('d.digits')})`
    return [
      ...Object.keys(PATTERNS).map((_, p) => `count(*) FILTER (WHERE ${text} ~ $${p + 2})::int AS "${at} ${p}"`),
      `count(*) FILTER (WHERE ${card})::int AS "${at} card"`,
    ]
  })
  const { rows } = await target.query(`SELECT ${measures.join(', ')} FROM ${fromItem(table)} AS t`, [
    CARD,
    ...Object.values(PATTERNS),
  ])
  free.forEach(({ column }, at) => {
    for (const [name, p] of [
      ...Object.keys(PATTERNS).map((name, p) => [name, p] as const),
      ['card', 'card'] as const,
    ]) {
      const hits = rows[0][`${at} ${p}`] as number
      if (!hits) continue
      proof.hits.push({ table: table.name, column: column.name, pattern: name, hits })
      if (hits > (rules.proof?.['max-hits'] ?? 0) && !rules.proof?.['allow-hits']?.[`${table.name}.${column.name}`])
        proof.problems.push(`${table.name}.${column.name}: ${hits} rows hold what looks like a ${name}`)
    }
  })
}

const MADE = new Set(['hash', 'email', 'name', 'phone', 'address', 'uuid', 'card', 'null', 'constant'])

function isFree(column: MaskColumn, what: Decision['what'], use: string): boolean {
  return (column.family === 'text' || column.family === 'json') && what !== 'generated' && !MADE.has(use)
}

function keptPersonal(plan: Plan): Proof['keptPersonal'] {
  return plan.tables.flatMap(({ table, decisions }) =>
    decisions.flatMap(({ column, what, why }) => {
      const looksLike = what === 'kept' ? looksPersonal(column.name) : undefined
      return looksLike ? [{ table: table.name, column: column.name, looksLike, reason: why }] : []
    }),
  )
}

/** A reference that no constraint holds is proved by its orphans: as many as before, or none in a subset. */
async function proveReferences({ source, target }: Sides, plan: Plan, subset: boolean, proof: Proof): Promise<void> {
  const { schema } = plan
  const tables = new Map(plan.tables.map(({ table }) => [table.name, table]))
  for (const edge of plan.edges.filter(({ constraint }) => !constraint)) {
    const sql = `SELECT count(*)::int AS rows FROM ${fromItem(tables.get(edge.from) as MaskTable)} AS t WHERE ${dangling(edge, schema)}`
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
        `${found.from} → ${found.to}: ${found.danglingAfter} rows refer to nothing, and ${subset ? 0 : found.danglingBefore} did before`,
      )
  }
}

/** As many valid constraints and indexes as the source has; any that is not valid is named. */
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

/** Rows in which a planted text is found, also as bytes; a canary that was never planted proves nothing. */
async function proveCanaries(sides: Sides, plan: Plan, canaries: readonly string[], proof: Proof): Promise<void> {
  if (!canaries.length) return
  const seen = new Array<number>(canaries.length).fill(0)
  for (const { table, decisions } of plan.tables) {
    const text = decisions
      .filter(
        ({ column }) =>
          !['boolean', 'integer', 'numeric', 'float', 'date', 'timestamp'].includes(column.family) || column.array,
      )
      .map(({ column }) => `${columnOf(column.name)}::text`)
    if (!text.length) continue
    const row = `concat_ws(E'\\x01', ${text.join(', ')})`
    const sql = `SELECT u.o::int - 1 AS canary, count(*)::int AS rows
       FROM (SELECT ${row} AS line FROM ${fromItem(table)} AS t OFFSET 0) s
       JOIN unnest($1::text[]) WITH ORDINALITY u(c, o)
         ON strpos(s.line, u.c) > 0 OR strpos(s.line, encode(convert_to(u.c, 'UTF8'), 'hex')) > 0
      GROUP BY 1`
    for (const { canary, rows } of (await sides.source.query(sql, [canaries])).rows) {
      seen[canary] = (seen[canary] ?? 0) + rows
      proof.canaries.rowsBefore += rows
    }
    const left = (await sides.target.query(sql, [canaries])).rows.reduce((sum, { rows }) => sum + rows, 0)
    proof.canaries.rowsAfter += left
    if (left) proof.problems.push(`${table.name}: planted canaries are found in ${left} rows of the rehearsal source`)
  }
  seen.forEach((rows, at) => {
    if (!rows) proof.problems.push(`canary ${at + 1} is nowhere on the source: it was not planted, and proves nothing`)
  })
}
