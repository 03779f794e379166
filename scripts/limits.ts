/**
 * Fails if a class has more than 250 lines, or if a line adds several keys in the form `...{ a, b }`, because a search
 * for `a:` would miss them. The linter limits functions to 60 lines (biome.json).
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const MOST_LINES = 250
/** Files that broke the rule when it was introduced. The list can only shrink. */
const KNOWN = new Set([
  'rehearsal/cockroach/connection.ts',
  'rehearsal/molt/replicator.ts',
  'src/phases/rolling/session.ts',
])

interface Problem {
  file: string
  what: string
}

function longClasses(file: string, lines: readonly string[]): Problem[] {
  const found: Problem[] = []
  for (const [index, line] of lines.entries()) {
    const name = /^(?:export )?(?:abstract )?class (\w+)/.exec(line)?.[1]
    if (!name || line.endsWith('}')) continue
    // The formatter puts a class's closing brace in column 1.
    const length = lines.indexOf('}', index) - index + 1
    if (length > MOST_LINES) found.push({ file, what: `${index + 1}: class ${name} has ${length} lines` })
  }
  return found
}

function foldedKeys(file: string, lines: readonly string[]): Problem[] {
  return lines.flatMap((line, index) =>
    /^\s*\.\.\.\{ .*, .* \},?$/.test(line) ? [{ file, what: `${index + 1}: write one key per line` }] : [],
  )
}

const files = ['src', 'rehearsal', 'scripts', 'bench'].flatMap((folder) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => join(folder, file)),
)
const problems = files.flatMap((file) => {
  const lines = readFileSync(file, 'utf8').split('\n')
  return [...longClasses(file, lines), ...foldedKeys(file, lines)]
})
const fresh = problems.filter(({ file }) => !KNOWN.has(file))
const over = [...KNOWN].filter((file) => !problems.some((each) => each.file === file))
for (const { file, what } of fresh) console.error(`${file}:${what}`)
for (const file of over) console.error(`${file} is within the limits. Remove it from KNOWN in scripts/limits.ts`)
if (fresh.length) {
  console.error('Split them, or write one key per line. KNOWN in scripts/limits.ts lists the exceptions.')
  process.exitCode = 1
}
