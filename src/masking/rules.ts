import { readFileSync } from 'node:fs'
import { parseDocument } from 'yaml'
import * as z from 'zod'
import { InputError, messageOf } from '../runtime/errors.ts'
import { plural } from '../runtime/progress.ts'

const domain = z.string().min(1).describe('Columns in one domain get the same masked value for the same original.')
const fold = z
  .boolean()
  .describe('Ignores case and surrounding spaces, as in `A@x.org ` and `a@x.org`. Masked values are then not unique.')
const reason = z.string().min(3)
const envName = z.string().regex(/^env:[A-Za-z_]\w*$/)
const column = z.string().regex(/^[^.]+\.[^.]+$/, 'write table.column')

const keep = z.strictObject({
  keep: z.literal(true),
  reason: reason.describe('Why everyone with access to the rehearsal may see these values.'),
})

const scalarRules = [
  z.strictObject({ use: z.literal('null') }),
  z.strictObject({ use: z.literal('constant'), value: z.union([z.string(), z.number(), z.boolean()]) }),
  z.strictObject({
    use: z.literal('hash'),
    domain: domain.optional(),
    fold: fold.optional(),
    length: z.int().min(8).max(64).optional().describe('Hex digits, for text. Default 32.'),
    prefix: z.string().max(16).optional(),
  }),
  z.strictObject({
    use: z.literal('partial'),
    last: z.int().min(0).max(8).describe('Number of characters to keep at the end of values at least twice as long.'),
    with: z.string().length(1).optional().describe('Character that replaces the others. Default `*`.'),
  }),
  z.strictObject({ use: z.literal('email'), domain: domain.optional(), fold: fold.optional() }),
  z.strictObject({
    use: z.literal('name'),
    part: z.enum(['full', 'first', 'last']).optional(),
    domain: domain.optional(),
    fold: fold.optional(),
  }),
  z.strictObject({ use: z.literal('phone'), domain: domain.optional(), fold: fold.optional() }),
  z.strictObject({
    use: z.literal('address'),
    part: z.enum(['line', 'city', 'postcode']).optional(),
    domain: domain.optional(),
    fold: fold.optional(),
  }),
  z.strictObject({ use: z.literal('text') }),
  z.strictObject({
    use: z.literal('number'),
    noise: z.number().gt(0).lte(1).optional().describe('Share of the value: 0.1 is ±10%.'),
    absolute: z.number().gt(0).optional().describe('An absolute amount, up or down, instead of a share.'),
    min: z.number().optional(),
    max: z.number().optional(),
  }),
  z.strictObject({ use: z.literal('uuid'), domain: domain.optional() }),
  z.strictObject({ use: z.literal('card'), domain: domain.optional() }),
] as const

/** A rule for a value inside a JSON document. */
const leaf = z.union([keep, z.discriminatedUnion('use', [...scalarRules])])

const rule = z.union([
  keep,
  z.discriminatedUnion('use', [
    ...scalarRules,
    z.strictObject({
      use: z.literal('date'),
      days: z.int().min(1).max(3650).describe('Maximum number of days by which a date moves, either way.'),
      by: z
        .string()
        .describe('Column of the same table that identifies the entity. All dates of an entity move together.'),
    }),
    z.strictObject({
      use: z.literal('choice'),
      'min-count': z.int().min(1).optional().describe('Values that occur less often are never chosen. Default 10.'),
    }),
    z.strictObject({
      use: z.literal('json'),
      paths: z
        .record(z.string().regex(/^(\[\]|[^.[\]]+)(\[\])*(\.[^.[\]]+(\[\])*)*$/), leaf)
        .refine((paths) => Object.keys(paths).length > 0, 'list at least one path')
        .describe(
          '`a.b` for a member, `a[]` for the elements of an array, `a[].b` for a member of each, `[].b` if the document is an array.',
        ),
      others: z
        .enum(['refuse', 'drop'])
        .optional()
        .describe('What to do with members that are not listed. Default `refuse`.'),
    }),
    z.strictObject({
      use: z.literal('sql'),
      expression: z.string().min(1).describe('An SQL expression over the columns of the row, written as `t."column"`.'),
      'reviewed-by': z.string().min(2),
      unique: z.boolean().optional().describe('Your promise that different values get different masked values.'),
    }),
  ]),
])

const schema = z.strictObject({
  version: z.literal(1),
  key: envName.describe('The environment variable with the key: at least 32 random characters.'),
  safe: z
    .strictObject({
      'surrogate-keys': z.boolean().optional().describe('Generated integer and uuid primary keys are kept.'),
      'foreign-keys': z.boolean().optional().describe('Foreign keys inherit the rule of the column they refer to.'),
      booleans: z.boolean().optional().describe('Booleans are kept.'),
      enums: z.boolean().optional().describe('Columns of an enum type are kept: the labels are part of the schema.'),
      timestamps: z
        .strictObject({
          jitter: z
            .string()
            .regex(/^[1-9]\d*(m|h|d)$/, 'write a positive duration such as 90m, 36h or 3d')
            .describe('Maximum shift of a timestamp: `90m`, `36h`, `3d`.'),
        })
        .optional()
        .describe('Timestamps move by a random amount, the same for all timestamps of a row.'),
    })
    .optional(),
  tables: z.record(z.string(), z.record(z.string(), rule)),
  exclude: z.record(z.string(), reason).optional().describe('Tables to leave out, and why.'),
  references: z
    .array(
      z.strictObject({
        from: column,
        to: column,
        when: z
          .strictObject({ column: z.string(), is: z.string() })
          .optional()
          .describe('For a polymorphic reference: the row refers to that table if this column has this value.'),
      }),
    )
    .optional()
    .describe('References that no constraint declares; they inherit rules like foreign keys.'),
  subset: z
    .record(
      z.string(),
      z.strictObject({
        where: z.string().optional().describe('A predicate over the columns of the row, as `t."column"`.'),
        percent: z.number().gt(0).lte(100).optional(),
      }),
    )
    .optional()
    .describe('Rows to copy. Rows of any table that refer to an omitted row are omitted too.'),
  canaries: z
    .union([envName, z.array(z.string().min(8))])
    .optional()
    .describe('Texts planted on the source, none of which may be in the copy. `env:NAME`: one per line.'),
  proof: z
    .strictObject({
      sample: z
        .number()
        .gt(0)
        .lte(1)
        .optional()
        .describe('Share of the originals to search for, at least 10,000 rows of each table. Default 1: all.'),
      'min-length': z
        .int()
        .min(1)
        .max(32)
        .optional()
        .describe(
          'Minimum length in bytes of the values to search for. Shorter ones cannot identify a person. Default 4.',
        ),
      'max-hits': z.int().min(0).optional().describe('Pattern hits allowed in free text. Default 0.'),
      'allow-hits': z.record(column, reason).optional().describe('Columns in which a pattern may match, and why.'),
      'allow-schema': reason
        .optional()
        .describe('Why texts in the schema (defaults, checks, labels) may look like personal data or match originals.'),
      'allow-survivors': z
        .record(column, reason)
        .optional()
        .describe('Columns in which originals may occur among the masked values, and why.'),
    })
    .optional(),
})

export type Rules = z.infer<typeof schema>
export type Rule = z.infer<typeof rule>
export type LeafRule = z.infer<typeof leaf>
export type UseRule = Exclude<Rule, { keep: true }>
export type UseName = UseRule['use']

/** What each rule preserves, for the documentation and the report. */
export const KEEPS: Record<UseName, { unique: string; order: string; distribution: string }> = {
  null: { unique: 'no', order: 'no', distribution: 'no' },
  constant: { unique: 'no', order: 'no', distribution: 'NULL share' },
  hash: { unique: 'yes, with 16 or more hex digits or 64 bits', order: 'no', distribution: 'NULLs, duplicates' },
  partial: { unique: 'no', order: 'no', distribution: 'NULLs, lengths' },
  email: { unique: 'yes, with 29 or more characters', order: 'no', distribution: 'NULLs, duplicates' },
  name: { unique: 'no', order: 'no', distribution: 'NULLs, duplicates' },
  phone: { unique: 'no', order: 'no', distribution: 'NULLs, duplicates, lengths' },
  address: { unique: 'no', order: 'no', distribution: 'NULLs, duplicates' },
  text: { unique: 'no', order: 'no', distribution: 'NULLs, lengths' },
  number: { unique: 'no', order: 'roughly', distribution: 'NULLs, duplicates, roughly the values' },
  date: { unique: 'no', order: 'within an entity', distribution: 'NULLs, intervals within an entity' },
  uuid: { unique: 'yes', order: 'no', distribution: 'NULLs, duplicates' },
  card: { unique: 'no', order: 'no', distribution: 'NULLs, duplicates, number of digits' },
  choice: { unique: 'no', order: 'no', distribution: 'NULLs, weights of the values' },
  json: { unique: 'no', order: 'no', distribution: 'NULLs, members, lengths of arrays' },
  sql: { unique: 'if its rule says so', order: 'not guaranteed', distribution: 'not guaranteed' },
}

/** JSON Schema of the rules file, for editors. */
export function rulesJsonSchema(): string {
  return `${JSON.stringify({ title: 'molt-actions masking rules', ...z.toJSONSchema(schema) }, null, 2)}\n`
}

/**
 * Reads the rules file.
 * @throws InputError with every mistake in it, each with its path
 */
export function readRules(path: string): Rules {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new InputError(
      'mask.rules-unreadable',
      `input \`rules\`: ${path} cannot be read: ${messageOf(error).split('\n')[0]}`,
    )
  }
  return parseRules(text, path)
}

export function parseRules(text: string, path: string): Rules {
  const document = parseDocument(text)
  if (document.errors[0])
    throw new InputError(
      'mask.rules-invalid',
      `input \`rules\`: ${path} is not YAML: ${document.errors[0].message.split('\n')[0]}`,
    )
  const value = document.toJS()
  const result = schema.safeParse(value)
  const found = result.success ? undecided(result.data) : result.error.issues.flatMap((issue) => explain(issue, value))
  if (result.success && !found.length) return result.data
  throw new InputError(
    'mask.rules-invalid',
    `input \`rules\`: ${path} has ${plural(found.length, 'mistake')}:\n${found.map((line) => `  - ${line}`).join('\n')}\ndocs/masking.md describes the rules.`,
  )
}

/** Finds the remaining TODOs of a proposal. */
function undecided({ tables, exclude, proof }: Rules): string[] {
  const rules = Object.entries(tables).flatMap(([table, columns]) =>
    Object.entries(columns).flatMap(([column, { ...rule }]) => {
      // TODO in an SQL expression can be a value in the data.
      if ('expression' in rule) rule.expression = ''
      return todos(rule, `tables.${table}.${column}`)
    }),
  )
  return [...rules, ...todos(exclude, 'exclude'), ...todos(proof, 'proof')]
}

function todos(value: unknown, at: string): string[] {
  if (typeof value === 'string')
    return /\bTODO\b/.test(value) ? [`${at}: still has a TODO. Replace it with your decision`] : []
  if (value === null || typeof value !== 'object') return []
  return Object.entries(value).flatMap(([name, each]) =>
    todos(at.startsWith('tables') ? name : '', `${at}.${name}`).concat(todos(each, `${at}.${name}`)),
  )
}

/** Reports only the intended branch of a failed union, although all branches fail. */
function explain(issue: z.core.$ZodIssue, root: unknown): string[] {
  if (issue.code === 'invalid_union' && issue.errors.length === 2) {
    const at = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], root)
    if (at === null || typeof at !== 'object')
      return [`${issue.path.join('.')}: use { use: … } or { keep: true, reason: … }`]
    const branch = issue.errors['keep' in at ? 0 : 1] as z.core.$ZodIssue[]
    return branch.flatMap((each) => explain({ ...each, path: [...issue.path, ...each.path] } as z.core.$ZodIssue, root))
  }
  if (issue.code === 'invalid_union')
    return [`${issue.path.join('.')}: not a rule; \`use\` is one of ${Object.keys(KEEPS).join(', ')}`]
  return [`${issue.path.join('.') || 'the file'}: ${issue.message}`]
}

const WEAK_WORDS = /change.?me|password|secret|example|1234567|abcdefg/i

/** Sequences from the keyboard, the alphabet and the digits. */
const RUNS = ['qwertyuiop', 'asdfghjkl', 'zxcvbnm', 'abcdefghijklmnopqrstuvwxyz', '01234567890']

/** The most common letter pairs in English. Many of them are common in other languages too. */
const PAIRS = new Set(
  'th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ta ho el la'.split(
    ' ',
  ),
)

/**
 * Describes why a masking key is too weak, without quoting it; undefined when it is strong enough. Anyone who guesses
 * the key can find originals by masking every likely name and e-mail address. Keys printed by `openssl rand`, in hex or
 * base64, pass.
 */
export function keyProblem(key: string | undefined): string | undefined {
  if (!key) return 'is empty or not set'
  if (key.length < 32) return `has ${key.length} characters. Use 32 or more`
  if (/\s/.test(key)) return 'contains spaces, like a sentence. Use random characters'
  if (new Set(key).size < 12) return 'has too few different characters. Use random characters'
  if (WEAK_WORDS.test(key)) return 'contains guessable words or sequences. Use random characters'
  const pairs = [...key].slice(1).map((second, at) => `${key[at]}${second}`)
  if (pairs.filter(isRun).length * 2 > pairs.length)
    return 'consists of sequences of the alphabet or the keyboard. Use random characters'
  if (pairs.filter(isWord).length * 4 > pairs.length) return 'consists of words. Use random characters'
  return undefined
}

function isRun(pair: string): boolean {
  const [first, second] = [...pair.toLowerCase()]
  return first === second || RUNS.some((run) => run.includes(`${first}${second}`) || run.includes(`${second}${first}`))
}

/**
 * Whether two letters are a common pair in the same case. Case rarely changes within a word, but it does in half of all
 * random pairs.
 */
function isWord(pair: string): boolean {
  const lower = pair.toLowerCase()
  return PAIRS.has(lower) && (pair === lower || pair === pair.toUpperCase())
}

/** The value of `env:NAME`; undefined when it is not set. */
export function fromEnv(reference: string): string | undefined {
  return process.env[reference.slice('env:'.length)] || undefined
}

/** Converts `90m`, `36h` or `3d` to milliseconds. */
export function jitterMs(text: string): number {
  const units: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000 }
  return Number(text.slice(0, -1)) * (units[text.slice(-1)] as number)
}
