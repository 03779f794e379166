/**
 * `npm run check-config -- molt-actions.yml`: checks config files without a database, with the same messages as the
 * actions.
 */
import { readFileSync } from 'node:fs'
import { specs } from '../src/actions/specs.ts'
import { parseConfig } from '../src/runtime/config.ts'
import { messageOf } from '../src/runtime/errors.ts'
import { problemText } from '../src/runtime/inputs.ts'
import { plural } from '../src/runtime/progress.ts'

const HELP = `npm run check-config -- FILE...

Checks config files offline: sections, names and values of inputs. Does not read the environment variables that a file refers to.
Exit status: 0 when all are valid, 1 for problems, 2 for wrong usage.`

function check(path: string): boolean {
  try {
    const { sections, problems } = parseConfig(readFileSync(path, 'utf8'), specs)
    for (const each of problems) console.log(`${problemText(path, each)} [${each.code}]`)
    const settings = Object.values(sections).reduce((sum, section) => sum + Object.keys(section ?? {}).length, 0)
    console.log(
      `${path}: ${problems.length ? plural(problems.length, 'problem') : `valid, ${plural(settings, 'setting')}`}`,
    )
    return !problems.length
  } catch (error) {
    console.log(`${path}: ${messageOf(error)}`)
    return false
  }
}

const paths = process.argv.slice(2)
if (!paths.length || paths.some((each) => each.startsWith('-'))) {
  console.log(HELP)
  process.exitCode = paths.includes('--help') ? 0 : 2
} else if (paths.map(check).includes(false)) process.exitCode = 1
