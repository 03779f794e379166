import * as z from 'zod'
import { VERIFY_LEVELS } from '../model/plan.ts'
import { wasCompared } from './summary.ts'
import type { VerifyReport } from './verify-report.ts'

const count = z.number().int().min(0)

const table = z.strictObject({
  name: z.string().describe('Name without the schema.'),
  equal: z.boolean().describe('Whether no rows differ, or all differing rows were only lagging.'),
  rows: count.describe('Number of rows on the source.'),
  missing: count.describe('Number of rows missing on the target.'),
  mismatch: count.describe('Number of rows with a different value on the target.'),
  extraneous: count.describe('Number of rows that exist only on the target.'),
  columnMismatch: count.describe('Number of rows whose columns differ on the target.'),
  unseen: count
    .optional()
    .describe('Number of differing rows that molt missed, but the row hashes of both databases revealed.'),
  shards: count.describe('Number of fully compared shards; 0 if rows were only counted.'),
  columns: z.array(z.string()).optional().describe('Differing columns, the most frequent first.'),
  diagnosis: z.string().optional().describe('Likely cause of the differences.'),
  samples: z
    .array(
      z.strictObject({
        kind: z.enum(['missing', 'mismatch', 'extraneous']),
        columns: z.array(z.string()),
        keyHash: z.string().describe('HMAC-SHA-256 of the key, with a secret stored only in the databases.'),
      }),
    )
    .optional()
    .describe('The first differing rows, without their keys and values.'),
  recheck: z
    .strictObject({ lag: count, loss: count, changing: count, unlike: count, unchecked: count })
    .optional()
    .describe('Result of rechecking the differing rows; only while changes stream.'),
  unlike: z
    .boolean()
    .optional()
    .describe('Whether molt reports differing rows although the row hashes of both databases are equal.'),
})

/** The report of `verify`. The published JSON Schema is generated from this. */
export const verifyReport = z.strictObject({
  version: z.literal(1),
  verdict: z.enum(['clean', 'different', 'unsettled']),
  level: z.enum([...VERIFY_LEVELS, 'changed']),
  while: z.enum(['streaming', 'drained']),
  counted: z.enum(['exact', 'estimated', 'no']).describe('How the rows were counted, apart from molt.'),
  problems: z.array(z.string()),
  notes: z.array(z.string()),
  decisions: z.array(z.string()).describe('What the user must create or decide.'),
  insecure: z.array(z.string()).describe('Sides whose connection may lack TLS.'),
  durationMs: count,
  tables: z.array(table),
})

/** Converts a report to its published form. */
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

/** JSON Schema of {@link verifyReport}, for `docs`. */
export function verifySchema(): string {
  const schema = z.toJSONSchema(verifyReport, { target: 'draft-2020-12' })
  return `${JSON.stringify({ title: 'Report of the verify action', ...schema }, null, 2)}\n`
}
