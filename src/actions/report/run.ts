import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { info } from '@actions/core'
import { gatherDossier } from '../../phases/dossier/gather.ts'
import { dossierPage } from '../../report/dossier/page.ts'
import type { Action } from '../../runtime/action.ts'
import { UserError } from '../../runtime/errors.ts'
import { nextByLedger, nextCommand } from '../../runtime/next.ts'
import { workFolder } from '../../runtime/progress.ts'
import { redact } from '../../runtime/secrets.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs, signal } = context
    requireTls(inputs)
    const facts = await gatherDossier({ ...inputs, signal })
    if (!facts.steps.length)
      throw new UserError(
        'ledger.no-migration',
        `the target's ledger has no migration \`${inputs.migration}\`. Run \`prepare\` first`,
      )
    const next = nextByLedger()
    const path = resolve(inputs.path ?? join(workFolder(inputs.migration), 'dossier.html'))
    writeFileSync(
      path,
      redact(dossierPage({ ...facts, next: next && { before: next.before, command: nextCommand(next) } })),
    )
    info(`dossier: ${path}`)
    context.output('dossier', path)
    context.output('remaining', facts.remaining?.length ?? '')
  },
}
