// `npm run conformance`: checks that a cluster behaves as these actions expect.
import { parseArgs } from 'node:util'
import { InputError, messageOf, UserError } from '../../src/runtime/errors.ts'
import { plural, seconds } from '../../src/runtime/progress.ts'
import { urlProblem } from '../../src/runtime/url.ts'
import { exitCodeOf, type ItemResult, runConformance } from '../conformance/run.ts'

const HELP = `Checks that a CockroachDB cluster behaves as these actions expect. Takes less than 3 minutes.

  npm run conformance -- --target URL [--source URL] [--json]

  --target URL  the cluster. The role must be admin, or have CREATEROLE, CREATELOGIN, CREATE on the database,
                VIEWJOB, VIEWACTIVITY and EXTERNALIOIMPLICITACCESS.
  --source URL  a PostgreSQL server with wal_level = logical, to check row hashes and an abort; both are skipped without it
  --json        prints one JSON object at the end

Creates a schema, roles and a migration, all named molt_conformance_…, and removes them at the end, even if the run
fails or is interrupted. Each line compares the documentation with the cluster's actual behavior.

Exit status: 0 if everything is as documented, 1 for a difference, 2 if a check could not run, 130 if interrupted.`

const SIGNS: Record<ItemResult['result'], string> = {
  'as-documented': 'same',
  different: 'DIFFERENT',
  skipped: 'skipped',
  'not-run': 'NOT RUN',
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      target: { type: 'string' },
      source: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(HELP)
    return 0
  }
  const { target, source } = values
  if (!target)
    throw new InputError('rehearse.invalid-option', '--target is missing (see npm run conformance -- --help)')
  for (const [name, url] of Object.entries({ target, source })) {
    const problem = url !== undefined && urlProblem(url)
    if (problem) throw new InputError('rehearse.invalid-option', `--${name}: ${problem}`)
  }
  const cancel = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => cancel.abort(new Error(`interrupted by ${signal}`)))
  const began = performance.now()
  const found = await runConformance({ target, ...(source && { source }) }, cancel.signal, (item) => {
    if (!values.json) console.log(itemText(item))
  })
  if (values.json) console.log(JSON.stringify({ ...found, exitCode: exitCodeOf(found) }))
  else console.log(summaryText(found, performance.now() - began))
  return cancel.signal.aborted ? 130 : exitCodeOf(found)
}

function itemText({ id, says, source, result, reason, looks }: ItemResult): string {
  return [
    `${SIGNS[result].padEnd(9)} ${id}: ${says}${reason ? ` (${reason})` : ''}`,
    ...looks.flatMap(({ what, expected, seen, same }) => [
      `          ${same ? ' ' : '!'} ${what}`,
      `              expected ${expected}`,
      `              seen     ${seen}`,
    ]),
    ...(result === 'different' ? [`              source   ${source}`] : []),
  ].join('\n')
}

function summaryText({ version, items, left }: Awaited<ReturnType<typeof runConformance>>, ms: number): string {
  const count = (result: ItemResult['result']) => items.filter((item) => item.result === result).length
  return [
    ...left.map((what) => `left behind: ${what}`),
    `CockroachDB ${version}: ${plural(count('as-documented'), 'item')} as documented, ${count('different')} different, ${count('skipped')} skipped, ${count('not-run')} not run, in ${seconds(ms)}`,
  ].join('\n')
}

main().then(
  (code) => {
    process.exitCode = code
  },
  (error) => {
    console.error(error instanceof UserError ? messageOf(error) : error)
    process.exitCode = 2
  },
)
