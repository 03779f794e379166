import { createHash } from 'node:crypto'
import { brotliCompressSync, brotliDecompressSync, constants } from 'node:zlib'
import { type Constraint, isShardCheck, type Schema, type SchemaColumn } from './schema.ts'

/** Objects and their definitions, such as `column orders.total` → `numeric(14,2) not null`. */
export type Fingerprint = Record<string, string>

/** A fingerprint as the ledger stores it, compressed because 10,000 tables have 100,000 columns. */
export interface PackedFingerprint {
  sha256: string
  /** JSON of two lists, objects and definitions, compressed with Brotli and encoded in base64. */
  objects: string
}

/** A change to one object. `before` is null if the object was added, and `after` if it was dropped. */
export interface SchemaChange {
  side: 'source' | 'target'
  object: string
  before: string | null
  after: string | null
}

/**
 * Fingerprints the definitions of `tables` (columns with types and defaults, constraints, indexes, enums) and of the
 * schema's sequences. Omits what the migration itself changes: the validation of constraints, and a sequence's value
 * and cache.
 */
export function fingerprint(schema: Schema, tables: readonly string[]): Fingerprint {
  const expected = new Set(tables)
  const found: Fingerprint = {}
  // Identical columns share one object.
  const known = new Map<SchemaColumn, string>()
  const definitionOf = (column: SchemaColumn) => {
    const text = known.get(column) ?? columnText(column)
    known.set(column, text)
    return text
  }
  for (const table of schema.tables) {
    if (!expected.has(table.name)) continue
    found[`table ${table.name}`] = table.kind === 'p' ? 'partitioned' : 'table'
    for (const column of table.columns) {
      found[`column ${table.name}.${column.name}`] = definitionOf(column)
      if (column.labels) found[`enum ${column.type.replace(/\[\]$/, '')}`] = column.labels.join(', ')
    }
  }
  for (const each of schema.constraints)
    if (each.schema === schema.name && expected.has(each.table) && !isShardCheck(each))
      found[`constraint ${each.table}.${each.name}`] = constraintText(each)
  // Skip the primary key's index, because its constraint is already included.
  for (const each of schema.indexes)
    if (expected.has(each.table) && !each.primary) found[`index ${each.table}.${each.name}`] = each.definition
  for (const each of schema.sequences)
    if (!each.table || expected.has(each.table))
      found[`sequence ${each.name}`] =
        `increment ${each.increment} from ${each.min} to ${each.max}${each.cycle ? ' cycle' : ''}${each.table ? ` of ${each.table}.${each.column}` : ''}`
  for (const each of schema.actions ?? [])
    if (expected.has(each.table)) found[`${each.kind} ${each.table}.${each.name}`] = each.definition
  for (const each of schema.partitions ?? [])
    if (expected.has(each.root)) found[`partition ${each.root}.${each.name}`] = 'partition'
  return found
}

function columnText(column: SchemaColumn): string {
  return [
    column.type,
    column.notNull && 'not null',
    column.generated && 'generated',
    column.identityAlways && 'identity always',
    column.detail?.collation && `collate ${column.detail.collation}`,
    column.default !== null && `default ${column.default}`,
  ]
    .filter(Boolean)
    .join(' ')
}

const KINDS: Record<string, string> = { p: 'PRIMARY KEY', u: 'UNIQUE', f: 'FOREIGN KEY', c: 'CHECK', x: 'EXCLUDE' }

function constraintText(each: Constraint): string {
  const { references } = each
  const about = each.kind === 'c' ? `(${each.condition ?? ''})` : `(${each.columns.join(', ')})`
  const to = references
    ? ` REFERENCES ${references.schema}.${references.table} (${references.columns.join(', ')}) on update ${references.onUpdate} on delete ${references.onDelete}`
    : ''
  return `${KINDS[each.kind]} ${about}${to}${each.deferrable ? ' deferrable' : ''}`
}

export function packFingerprint(of: Fingerprint): PackedFingerprint {
  const objects = Object.keys(of).sort()
  const text = Buffer.from(JSON.stringify([objects, objects.map((object) => of[object])]))
  // Brotli, because repeated names are megabytes apart, beyond gzip's window.
  const params = { [constants.BROTLI_PARAM_QUALITY]: 5, [constants.BROTLI_PARAM_LGWIN]: 18 }
  return {
    sha256: createHash('sha256').update(text).digest('hex'),
    objects: brotliCompressSync(text, { params }).toString('base64'),
  }
}

export function unpackFingerprint(packed: PackedFingerprint): Fingerprint {
  const text = brotliDecompressSync(Buffer.from(packed.objects, 'base64')).toString()
  const [objects, definitions] = JSON.parse(text) as [string[], string[]]
  return Object.fromEntries(objects.map((object, at) => [object, definitions[at] as string]))
}

/**
 * Lists added, dropped and changed objects. If a table was added or dropped, lists only the table and not its parts.
 */
export function compareFingerprints(
  side: SchemaChange['side'],
  before: Fingerprint,
  after: Fingerprint,
): SchemaChange[] {
  const changes: SchemaChange[] = []
  for (const object of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const [was, is] = [before[object] ?? null, after[object] ?? null]
    if (was === is || ((was === null || is === null) && tableCameOrWent(object, before, after))) continue
    changes.push({ side, object, before: was, after: is })
  }
  return changes.sort((a, b) => (a.object < b.object ? -1 : 1))
}

function tableCameOrWent(object: string, before: Fingerprint, after: Fingerprint): boolean {
  const owner = /^(?:column|constraint|index|partition|trigger|rule) (.*)$/.exec(object)?.[1]
  if (owner === undefined) return false
  for (let dot = owner.indexOf('.'); dot >= 0; dot = owner.indexOf('.', dot + 1)) {
    const table = `table ${owner.slice(0, dot)}`
    if (table in before !== table in after) return true
  }
  return false
}

/** Describes a change in words, with the definitions before and after. */
export function describeChange({ side, object, before, after }: SchemaChange): string {
  if (before === null) return `${object} is new on the ${side}: ${after}`
  if (after === null) return `${object} is gone from the ${side}. Before: ${before}`
  return `${object} has changed on the ${side}, from "${before}" to "${after}"`
}
