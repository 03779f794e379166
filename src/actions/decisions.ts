import { existsSync } from 'node:fs'
import { convert } from '../conversion/convert.ts'
import { type Decisions, readDecisions, unknownNames } from '../conversion/decisions.ts'
import type { Version } from '../conversion/rules.ts'
import type { Conversion } from '../conversion/work.ts'
import type { Catalog } from '../model/catalog.ts'
import { type Database, withDatabase } from '../runtime/database.ts'
import { InputError } from '../runtime/errors.ts'
import { didYouMean } from '../runtime/inputs.ts'
import { readCatalog } from '../sql/catalog.ts'

/** The schema to convert, and the file with decisions about it. */
interface Request {
  source: string
  schema: string
  /** Path of `convert.yml`. */
  decisions: string | undefined
}

/**
 * Converts the source's schema to CockroachDB's syntax, following the decisions in `convert.yml`.
 * @throws InputError when the schema does not exist, or the file has mistakes
 */
export async function convertSource(
  { source, schema, decisions: path }: Request,
  version: Version,
  signal: AbortSignal,
): Promise<{ catalog: Catalog; conversion: Conversion }> {
  const decisions = decisionsOf(path)
  const catalog = await withDatabase(source, 'source', (db: Database) => readCatalog(db, schema), signal)
  if (!catalog)
    throw new InputError(
      'convert.schema-missing',
      `input \`schema\`: the source has no schema ${schema}. Correct the name.`,
    )
  if (path) refuseProblems(path, unknownNames(decisions, catalog, didYouMean))
  return { catalog, conversion: convert(catalog, version, decisions) }
}

function decisionsOf(path: string | undefined): Decisions {
  if (!path) return { version: 1 }
  if (!existsSync(path))
    throw new InputError(
      'convert.decisions',
      `input \`decisions\`: ${path} does not exist. Check out the repository before this step, or correct the path.`,
    )
  const { decisions, problems } = readDecisions(path, didYouMean)
  refuseProblems(path, problems)
  return decisions
}

function refuseProblems(path: string, problems: readonly string[]): void {
  if (problems.length)
    throw new InputError(
      'convert.decisions',
      `${path} cannot be used:\n${problems.map((each) => `- ${each}`).join('\n')}`,
    )
}
