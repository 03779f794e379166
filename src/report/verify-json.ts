import * as z from 'zod'
import { VERIFY_LEVELS } from '../model/plan.ts'
import { wasCompared } from './summary.ts'
import type { VerifyReport } from './verify-report.ts'

const count = z.number().int().min(0)

const table = z.strictObject({
  name: z.string().describe('Bare name.'),
  equal: z.boolean().describe('No row of it differs, or those that did had arrived late.'),
  rows: count.describe("Rows of the source's table."),
  missing: count.describe('Rows that the target has not.'),
  mismatch: count.describe('Rows that have another value on the target.'),
  extraneous: count.describe('Rows that only the target has.'),
  columnMismatch: count.describe('Rows that have other columns on the target.'),
  unseen: count
    .optional()
    .describe('Rows of these that molt did not see, found by hashes that both databases computed.'),
  shards: count.describe('Shards that were compared to their end; 0 when rows were only counted.'),
  columns: z.array(z.string()).optional().describe('Columns that differ, the most frequent first.'),
  diagnosis: z.string().optional().describe('The likely cause.'),
  samples: z
    .array(
      z.strictObject({
        kind: z.enum(['missing', 'mismatch', 'extraneous']),
        columns: z.array(z.string()),
        keyHash: z.string().describe('HMAC-SHA-256 of the key, keyed with an id that only the databases hold.'),
      }),
    )
    .optional()
    .describe('The first rows that differ. No key and no value.'),
  recheck: z
    .strictObject({ lag: count, loss: count, changing: count, unlike: count, untold: count })
    .optional()
    .describe('While streaming: what became of the rows that differed.'),
  unlike: z
    .boolean()
    .optional()
    .describe('molt calls rows different whose hashes, computed by both databases, are equal.'),
})

/** What `verify` writes of itself; the published schema is made from this. */
export const verifyReport = z.strictObject({
  version: z.literal(1),
  verdict: z.enum(['clean', 'different', 'unsettled']),
  level: z.enum([...VERIFY_LEVELS, 'changed']),
  while: z.enum(['streaming', 'drained']),
  counted: z.enum(['exact', 'estimated', 'no']).describe('How rows were counted beside molt.'),
  problems: z.array(z.string()),
  notes: z.array(z.string()),
  decisions: z.array(z.string()).describe('What a person has to create or to decide.'),
  insecure: z.array(z.string()).describe('Sides that may be reached without TLS.'),
  durationMs: count,
  tables: z.array(table),
})

/** A report as it is published. */
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
