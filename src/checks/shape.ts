import { jobFix, offlineText } from '../destination/jobs.ts'
import type { ColumnDetail, SchemaColumn, SchemaTable } from '../model/schema.ts'
import { isNarrower } from '../model/structure.ts'
import { typeFamily } from '../model/tables.ts'
import { ident, literal, qualified } from '../runtime/database.ts'
import { type Check, cockroachSince, type Hit, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { nameOf } from './rights.ts'
import { isOf, TYPE_SUPPORT } from './support.ts'
import { expectedTables } from './tables.ts'

interface Pair {
  source: SchemaTable
  target: SchemaTable | undefined
}

/** Pairs each expected table with its counterpart on the target. */
function* pairs(facts: Facts): Iterable<Pair> {
  const byName = new Map(facts.target.schema.tables.map((table) => [table.name, table]))
  for (const source of expectedTables(facts)) yield { source, target: byName.get(source.name) }
}

interface ColumnPair {
  table: SchemaTable
  source: SchemaColumn
  target: SchemaColumn
}

/** Columns with their counterparts on the target. Omits pairs without any difference, because there are many. */
const columnPairs = once((facts: Facts): ColumnPair[] => {
  const found: ColumnPair[] = []
  const fed = new Set(facts.source.schema.sequences.map((each) => `${each.table}.${each.column}`))
  for (const { source, target } of pairs(facts)) {
    if (!target) continue
    const byName = new Map(target.columns.map((column) => [column.name, column]))
    for (const column of source.columns) {
      const other = byName.get(column.name)
      if (!other) continue
      const isFed = fed.size > 0 && fed.has(`${source.name}.${column.name}`)
      if (!areAlike(column, other, isFed)) found.push({ table: target, source: column, target: other })
    }
  }
  return found
})

function areAlike(source: SchemaColumn, target: SchemaColumn, isFed: boolean): boolean {
  return (
    source.type === target.type &&
    source.labels === null &&
    target.labels === null &&
    source.notNull === target.notNull &&
    source.generated === target.generated &&
    !target.identityAlways &&
    (target.default !== null || (source.default === null && !isFed))
  )
}

/** Column pairs whose types have different names. */
const unlike = once((facts: Facts) =>
  columnPairs(facts).filter(
    ({ source, target }) => source.type !== target.type || (source.labels === null) !== (target.labels === null),
  ),
)

function columnHit({ table, source, target }: ColumnPair, what: string, more: Hit['names'] = {}): Hit {
  const names = { table: qualified(table.schema, table.name), column: ident(source.name), type: source.type, ...more }
  return { object: `${nameOf(table)}.${source.name}`, what: `${nameOf(table)}.${target.name} ${what}`, names }
}

const WIDTHS: Record<string, number> = { smallint: 2, integer: 4, bigint: 8 }

/** Checks that the target has each expected table, with the source's columns and key. */
export const shapeChecks: readonly Check[] = [
  {
    id: 'tgt.table',
    severity: 'block',
    waivable: false,
    title: 'Every expected table exists on the target',
    protects: 'molt fetch skips a missing table with a warning, and still reports success.',
    fix: 'Run `npm run convert -- --source URL --out DIR` (or the action `convert`) and create {table} from its `1-tables.sql`, or leave the table out with `exclude-tables`',
    *find(facts) {
      const offline = new Set(facts.target.offline.map(({ table }) => table))
      for (const { source, target } of pairs(facts))
        if (!target && !offline.has(`${facts.settings.targetSchema}.${source.name}`))
          yield {
            object: nameOf(source),
            what: `${facts.settings.targetSchema}.${source.name} is missing on the target`,
            names: { table: qualified(facts.settings.targetSchema, source.name) },
          }
    },
  },
  {
    id: 'tgt.offline',
    severity: 'block',
    waivable: false,
    title: 'No expected table is offline',
    protects:
      'The catalogs hide a table during an import. An abandoned import keeps the table offline until its job is cancelled.',
    fix: '{fix}',
    *find({ target }) {
      for (const found of target.offline)
        yield {
          object: found.table,
          what: offlineText(found),
          names: {
            fix: found.job
              ? `${jobFix(found.job)}.`
              : `GRANT SYSTEM VIEWJOB TO ${ident(target.role.name)}; -- then rerun \`prepare\` to get the job's id`,
          },
        }
    },
  },
  {
    id: 'tgt.key',
    severity: 'block',
    waivable: false,
    title: 'Both sides have the same key columns in the same order',
    protects: "Otherwise, MOLT moves none of the table's rows, yet reports the table as loaded and exits with code 0.",
    fix: '{fix}',
    *find(facts) {
      for (const { source, target } of pairs(facts))
        if (target && source.key.join('\n') !== target.key.join('\n'))
          yield {
            object: nameOf(target),
            what: `${nameOf(target)} has the primary key (${target.key.join(', ') || 'none'}), but (${source.key.join(', ') || 'none'}) on the source`,
            names: {
              fix: source.key.length
                ? `ALTER TABLE ${qualified(target.schema, target.name)} ALTER PRIMARY KEY USING COLUMNS (${source.key.map(ident).join(', ')});`
                : `ALTER TABLE ${qualified(source.schema, source.name)} ADD PRIMARY KEY (${target.key.map(ident).join(', ')}); -- on the source`,
            },
          }
    },
  },
  {
    id: 'tgt.column-missing',
    severity: 'block',
    waivable: false,
    title: 'Every column exists on the target',
    protects: 'MOLT skips a missing column and loads the others. The stream stops at the first change.',
    fix: 'ALTER TABLE {table} ADD COLUMN {column} {type};',
    *find(facts) {
      for (const { source, target } of pairs(facts)) {
        const there = new Set(target?.columns.map((column) => column.name))
        for (const column of source.columns)
          if (target && !there.has(column.name))
            yield {
              object: `${nameOf(target)}.${column.name}`,
              what: `${nameOf(target)} has no column ${column.name}`,
              names: {
                table: qualified(target.schema, target.name),
                column: ident(column.name),
                type: column.type,
              },
            }
      }
    },
  },
  {
    id: 'tgt.column-extra',
    severity: 'block',
    waivable: false,
    title: 'The target has no column that the source lacks',
    protects:
      'The tools report a table with an extra column as different, or do not compare it. If the column is NOT NULL without a default, the load fails.',
    fix: 'ALTER TABLE {table} DROP COLUMN {column}; -- or add it to the source',
    *find(facts) {
      for (const { source, target } of pairs(facts)) {
        const known = new Set(source.columns.map((column) => column.name))
        for (const column of target?.columns ?? [])
          if (target && !known.has(column.name))
            yield {
              object: `${nameOf(target)}.${column.name}`,
              what: `${nameOf(target)}.${column.name} exists only on the target`,
              names: { table: qualified(target.schema, target.name), column: ident(column.name) },
            }
      }
    },
  },
  {
    id: 'tgt.type',
    severity: 'block',
    waivable: false,
    title: 'Column types are compatible',
    protects: 'MOLT skips a column with an incompatible type, and the row counts still match.',
    fix: '{change}',
    *find(facts) {
      for (const each of unlike(facts))
        if (typeFamily(each.source) !== typeFamily(each.target))
          yield columnHit(each, `is ${each.target.type}, but ${each.source.type} on the source`, {
            change: lacksType(facts, each.source.detail)
              ? 'Change the column on the source first. CockroachDB does not have its type; another check names the type to use.'
              : `ALTER TABLE ${qualified(each.table.schema, each.table.name)} ALTER COLUMN ${ident(each.source.name)} TYPE ${each.source.type};`,
          })
    },
  },
  {
    id: 'tgt.int-narrow',
    severity: 'block',
    title: 'Integers are at least as wide as on the source',
    protects: "The first value outside the narrower type's range stops the load or the stream.",
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE {type};',
    *find(facts) {
      for (const each of unlike(facts)) {
        const [here, there] = [WIDTHS[each.source.type], WIDTHS[each.target.type]]
        if (here && there && there < here)
          yield columnHit(each, `is ${each.target.type}, but ${each.source.type} on the source`)
      }
    },
  },
  {
    id: 'tgt.length',
    severity: 'block',
    title: 'Text and numbers fit into the target columns',
    protects:
      'The first value that does not fit stops the load or the stream ("value too long"), or it is rounded and the final comparison fails.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE {type};',
    *find(facts) {
      for (const each of unlike(facts))
        if (typeFamily(each.source) === typeFamily(each.target) && tooShort(each.source.type, each.target.type))
          yield columnHit(each, `is ${each.target.type}, but ${each.source.type} on the source`)
    },
  },
  {
    id: 'tgt.same-text',
    severity: 'block',
    title: 'MOLT compares the values of both types as equal',
    protects:
      'Values of these types are moved without an error, but molt verify reports them as different: the cutover fails during the write pause, even if earlier verifies were clean.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE {type};',
    *find(facts) {
      for (const each of unlike(facts))
        if (
          typeFamily(each.source) === typeFamily(each.target) &&
          comparedOtherwise(each.source.type, each.target.type)
        )
          yield columnHit(each, `is ${each.target.type}, but ${each.source.type} on the source`)
    },
  },
  {
    id: 'tgt.enum',
    severity: 'block',
    waivable: false,
    title: 'Enums have the same labels in the same order',
    protects: 'A missing label stops the stream. A different order changes ORDER BY and range comparisons.',
    fix: 'Recreate the type of {table}.{column} as ENUM ({labels})',
    *find(facts) {
      for (const each of columnPairs(facts)) {
        const { source, target } = each
        if (source.labels && target.labels && source.labels.join('\n') !== target.labels.join('\n'))
          yield columnHit(
            each,
            `has the labels ${target.labels.join(', ')}, but ${source.labels.join(', ')} on the source`,
            {
              labels: source.labels.map(literal).join(', '),
            },
          )
      }
    },
  },
  {
    id: 'tgt.identity-always',
    severity: 'block',
    waivable: false,
    title: 'No GENERATED ALWAYS AS IDENTITY on the target',
    protects: 'ALWAYS refuses the values of the load and the stream (428C9), so the stream stops permanently.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} SET GENERATED BY DEFAULT;',
    *find(facts) {
      for (const each of columnPairs(facts))
        if (each.target.identityAlways)
          yield {
            ...columnHit(each, 'is GENERATED ALWAYS AS IDENTITY'),
            apply: {
              side: 'target',
              sql: `ALTER TABLE ${qualified(each.table.schema, each.table.name)} ALTER COLUMN ${ident(each.target.name)} SET GENERATED BY DEFAULT`,
            },
          }
    },
  },
  {
    id: 'tgt.generated',
    severity: 'block',
    title: 'A column is generated on both sides or on neither',
    protects:
      'The tools do not move generated columns: a plain column on the target stays empty, and a generated one refuses values.',
    fix: 'Make {table}.{column} the same on both sides: generated and stored, or plain.',
    *find(facts) {
      for (const each of columnPairs(facts))
        if (each.source.generated !== each.target.generated)
          yield columnHit(each, `is generated on the ${each.source.generated ? 'source' : 'target'} only`)
    },
  },
  {
    id: 'tgt.not-null',
    severity: 'block',
    title: 'No column is NOT NULL on the target only',
    protects: 'The first NULL from the source stops the load or the stream.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL; -- on the target',
    *find(facts) {
      for (const each of columnPairs(facts))
        if (each.target.notNull && !each.source.notNull)
          yield {
            ...columnHit(each, 'is NOT NULL, but nullable on the source'),
            apply: {
              side: 'target',
              sql: `ALTER TABLE ${qualified(each.table.schema, each.table.name)} ALTER COLUMN ${ident(each.target.name)} DROP NOT NULL`,
            },
          }
    },
  },
  {
    id: 'tgt.nullable',
    severity: 'warn',
    title: "The target has the source's NOT NULL constraints",
    protects: 'After the switch, the target accepts NULL where the application relies on a value.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL; -- on the target',
    *find(facts) {
      for (const each of columnPairs(facts))
        if (each.source.notNull && !each.target.notNull)
          yield columnHit(each, 'is nullable, but NOT NULL on the source')
    },
  },
  {
    id: 'tgt.default',
    severity: 'warn',
    title: "The source's defaults exist on the target",
    protects: 'After the switch, an INSERT that omits the column writes NULL or fails.',
    fix: 'Set the default of {table}.{column} on the target. On the source it is {default}.',
    *find(facts) {
      const fed = new Set(facts.source.schema.sequences.map((each) => `${each.table}.${each.column}`))
      const there = new Set(facts.target.schema.sequences.map((each) => `${each.table}.${each.column}`))
      // Without any privilege on a table, the catalog hides its defaults. Another check reports the missing privilege.
      const hidden = new Set(facts.target.relations.filter(isHidden).map(({ name }) => name))
      for (const each of columnPairs(facts)) {
        if (each.source.generated || each.target.default !== null || hidden.has(each.table.name)) continue
        if (each.source.default === null && !fed.size) continue
        const key = `${each.table.name}.${each.source.name}`
        const wanted = each.source.default ?? (fed.has(key) ? 'a sequence' : null)
        if (wanted !== null && !there.has(key))
          yield columnHit(each, `has no default, but ${wanted} on the source`, { default: wanted })
      }
    },
  },
]

function isHidden({ owned, select, insert, update, delete: remove }: Facts['target']['relations'][number]): boolean {
  return !(owned || select || insert || update || remove)
}

function lacksType(facts: Facts, detail: ColumnDetail | undefined): boolean {
  const support = detail && TYPE_SUPPORT.find((each) => isOf(each, detail))
  return Boolean(
    support && facts.target.server.isCockroach && !(support.since && cockroachSince(facts, ...support.since)),
  )
}

/**
 * Whether molt verify reports equal values of the two types as different. It reads binary forms: 0.1 differs between
 * real and double precision, and `char(5)` is padded to 5 characters.
 */
function comparedOtherwise(source: string, target: string): boolean {
  const isReal = (type: string) => /^real/.test(type)
  const padding = (type: string) => /^character(\(\d+\))/.exec(type)?.[1]
  return isReal(source) !== isReal(target) || padding(source) !== padding(target)
}

/** Whether the target's length or precision is below the source's, as in `varchar(40)` or `numeric(12,2)`. */
function tooShort(source: string, target: string): boolean {
  const sizes = (type: string) => (/\((\d+)(?:,\s*(-?\d+))?\)/.exec(type)?.slice(1) ?? []).map((n) => Number(n ?? 0))
  const [here, there] = [sizes(source), sizes(target)]
  if (/^time/.test(target)) return isNarrower(source, target)
  if (target.startsWith('interval') || there[0] === undefined) return false
  // A bit column accepts only strings of its exact length.
  if (/^bit\(/.test(target)) return source.replace('[]', '') !== target.replace('[]', '')
  if (here[0] === undefined) return true
  if (there.length < 2) return there[0] < here[0]
  const [scaleHere, scaleThere] = [here[1] ?? 0, there[1] ?? 0]
  return scaleThere < scaleHere || there[0] - scaleThere < here[0] - scaleHere
}
