import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info } from '@actions/core'
import { filesOf, reportOf } from '../../conversion/report.ts'
import type { Version } from '../../conversion/rules.ts'
import type { Conversion } from '../../conversion/work.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { InputError, messageOf } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { convertSource } from '../decisions.ts'
import { requireTls } from '../shared.ts'
import { applyConversion } from './apply.ts'
import { spec } from './spec.ts'

type Convert = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireTls(inputs)
    if (inputs.apply && !inputs.target)
      throw new InputError(
        'input.conflict',
        'input `apply` requires `target`. Set it to the URL of the CockroachDB cluster that gets the tables',
      )
    const started = Date.now()
    const { catalog, conversion } = await convertSource(inputs, versionOf(inputs.targetVersion), context.signal)
    info(`converted ${plural(catalog.tables.length, 'table')} in ${seconds(Date.now() - started)}`)
    const files = filesOf(conversion)
    const changed = write(inputs.out, files)
    const { counts } = reportOf(conversion)
    for (const name of changed) info(`${join(inputs.out, name)}: written`)
    info(`${counts.manual} manual, ${counts.lossy} lossy, ${counts.adapted} adapted, ${counts.same} same`)
    context.output('out', inputs.out)
    context.output('changed', changed.length > 0)
    context.output('manual', counts.manual)
    context.output('lossy', counts.lossy)
    context.summary(files.get('report.md') as string)
    if (inputs.apply && inputs.target) await apply(context, inputs.target, conversion)
  },
}

async function apply(context: Convert, url: string, conversion: Conversion): Promise<void> {
  const { migration } = context.inputs
  const work = (db: Database) => applyConversion(db, migration, conversion)
  const { ran, before, deferred } = await withDatabase(url, 'target', work, context.signal)
  const counts = `${plural(ran, 'statement')} ran on the target${before ? `, ${before} ran earlier` : ''}; ${plural(deferred, 'index or constraint', 'indexes and constraints')} recorded in the ledger`
  info(counts)
  context.output('created', ran)
  context.output('deferred', deferred)
  context.summary(`Applied to migration \`${migration}\`: ${counts}. Run \`prepare\` next.`)
}

function versionOf(text: string): Version {
  const [major = 0, minor = 0] = text.replace(/^v/, '').split('.').map(Number)
  return [major, minor]
}

/** Writes the files whose text differs, and returns their names. */
function write(folder: string, files: ReadonlyMap<string, string>): string[] {
  try {
    mkdirSync(folder, { recursive: true })
    return [...files].flatMap(([name, text]) => {
      const path = join(folder, name)
      if (existsSync(path) && readFileSync(path, 'utf8') === text) return []
      writeFileSync(path, text)
      return name
    })
  } catch (error) {
    throw new InputError(
      'input.invalid',
      `input \`out\`: ${folder} cannot be written: ${messageOf(error).split('\n')[0]}`,
    )
  }
}
