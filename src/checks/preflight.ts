import * as z from 'zod'
import { SEVERITIES } from './check.ts'

const Finding = z.object({
  check: z.string().describe('Stable id of the check, such as `tbl.no-key`; docs/checks.md explains it.'),
  severity: z.enum(SEVERITIES),
  object: z.string().describe('The object, as a waiver names it.'),
  what: z.string(),
  fix: z.string(),
  waivedBy: z.string().optional().describe('The waiver that accepts it.'),
})

/** What `prepare` writes to preflight.json; docs/preflight.schema.json is generated from it. */
export const Preflight = z
  .object({
    version: z.literal(1),
    at: z.string().describe("Time by the runner's clock, ISO 8601."),
    migration: z.string(),
    verdict: z.enum(['pass', 'blocked']),
    counts: z.object({
      checks: z.int().describe('Number of checks run.'),
      block: z.int().describe('Blocking findings that are not waived.'),
      warn: z.int(),
      info: z.int(),
      waived: z.int(),
    }),
    source: z.object({ version: z.int(), database: z.string(), schema: z.string(), walBytesPerSecond: z.number() }),
    target: z.object({ version: z.string(), database: z.string(), schema: z.string() }),
    tables: z.array(
      z.object({
        name: z.string(),
        rows: z.number().describe('Planner estimate; -1 when there is none.'),
        bytes: z.number(),
      }),
    ),
    samples: z.object({
      rowsPerTable: z.int().describe('Upper limit of sampled rows per table.'),
      tables: z.int(),
      skipped: z.int().describe('Tables skipped for lack of time.'),
    }),
    estimate: z.object({ loadBytes: z.number(), loadSeconds: z.number(), memoryBytes: z.number() }),
    plan: z.object({ hash: z.string(), defer: z.string(), slot: z.string(), publication: z.string() }),
    waivers: z.array(z.string()),
    findings: z.array(Finding),
  })
  .describe('The result of the action `prepare`')

export type Preflight = z.infer<typeof Preflight>
