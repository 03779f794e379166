import * as z from 'zod'
import { VERIFY_LEVELS } from '../model/plan.ts'
import { wasCompared } from './summary.ts'
import type { VerifyReport } from './verify-report.ts'

const count = z.number().int().min(0)

const table = z.strictObject({
  name: z.string().describe('Bare name.'),
  equal: z.boolean().describe('No row differs, or all differing rows were only late.'),
  rows: count.describe('Rows of the table on the source.'),
  missing: count.describe('Rows missing on the target.'),
  mismatch: count.describe('Rows with a different value on the target.'),
  extraneous: count.describe('Rows that exist only on the target.'),
  columnMismatch: count.describe('Rows whose columns differ on the target.'),
  unseen: count.optional().describe('Differing rows that molt missed, but the row hashes of both databases showed.'),
  shards: count.describe('Shards fully compared; 0 when rows were only counted.'),
  columns: z.array(z.string()).optional().describe('Differing columns, most frequent first.'),
  diagnosis: z.string().optional().describe('The likely cause.'),
  samples: z
    .array(
      z.strictObject({
        kind: z.enum(['missing', 'mismatch', 'extraneous']),
        columns: z.array(z.string()),
        keyHash: z.string().describe('HMAC-SHA-256 of the key, with a secret that only the databases have.'),
      }),
    )
    .optional()
    .describe('The first differing rows, without keys and values.'),
  recheck: z
    .strictObject({ lag: count, loss: count, changing: count, unlike: count, unchecked: count })
    .optional()
    .describe('While streaming: the outcome of the recheck of differing rows.'),
  unlike: z
    .boolean()
    .optional()
    .describe('Molt reports differing rows, but the row hashes of both databases are equal.'),
})

/** The report of `verify`; the published schema is generated from it. */
export const verifyReport = z.strictObject({
  version: z.literal(1),
  verdict: z.enum(['clean', 'different', 'unsettled']),
  level: z.enum([...VERIFY_LEVELS, 'changed']),
  while: z.enum(['streaming', 'drained']),
  counted: z.enum(['exact', 'estimated', 'no']).describe('How rows were counted in addition to molt.'),
  problems: z.array(z.string()),
  notes: z.array(z.string()),
  decisions: z.array(z.string()).describe('What a person must create or decide.'),
  insecure: z.array(z.string()).describe('Sides whose connection may lack TLS.'),
  durationMs: count,
  tables: z.array(table),
})

/** A report in its published form. */
export function verifyJson(report: VerifyReport): z.infer<typeof verifyReport> {
  const { verdict, level, counted, problems, notes, decisions, insecure, durationMs } = report
  return {
    version: 1,
    verdict,
    level,
    while: report.while,
    counted,
    problems,
    notes,
    decisions,
    insecure,
    durationMs,
    tables: report.tables.map((verdict) => {
      const { shardsFinished, shardsTotal: _, equal: __, ...rest } = verdict
      const differ = rest.missing + rest.mismatch + rest.extraneous + rest.columnMismatch
      const { recheck } = rest
      const late = recheck !== undefined && recheck.lag === differ
      return { ...rest, equal: wasCompared(report, verdict) && (differ === 0 || late), shards: shardsFinished }
    }),
  }
}

/** The JSON Schema of {@link verifyReport}, for `docs`. */
export function verifySchema(): string {
  const schema = z.toJSONSchema(verifyReport, { target: 'draft-2020-12' })
  return `${JSON.stringify({ title: 'Report of the verify action', ...schema }, null, 2)}\n`
}
