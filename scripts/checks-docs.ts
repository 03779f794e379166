import * as z from 'zod'
import type { Check } from '../src/checks/check.ts'
import { GROUPS } from '../src/checks/index.ts'
import { Preflight } from '../src/checks/preflight.ts'

const WEIGHTS = {
  block: 'blocks',
  warn: 'warns',
  info: 'informs',
} as const

/** docs/checks.md: every check, what it protects against, and its fix. */
export function checksDocs(): string {
  const count = GROUPS.reduce((sum, group) => sum + group.checks.length, 0)
  const groups = GROUPS.map((group) => `## ${group.title}\n\n${group.checks.map(describe).join('\n\n')}`)
  return `<!-- Generated from src/checks by \`npm run build\`. Edit the source instead. -->
# The checks of \`prepare\`

${count} checks. None changes anything. A check that **blocks** fails the run; a check that *warns* or *informs* does not.
A check fills in the names in braces when it finds something.

To accept a finding, waive it by check and object: \`waive: tbl.no-key=audit_log; typ.money=*\`. A waiver that matches
nothing is an error. The summary shows all waivers, and the plan keeps them. A check cannot be waived if a later step
would fail anyway; its line says so.

${groups.join('\n\n')}
`
}

function describe(check: Check): string {
  const weight = `${check.severity === 'block' ? '**Blocks**' : `*${WEIGHTS[check.severity]}*`}${check.waivable === false ? ', cannot be waived' : ''}`
  return `### \`${check.id}\`\n\n${text(check.title)} (${weight}).\n\n${text(check.protects)}\n\n${code(check.fix)}`
}

function text(words: string): string {
  return words.replace(/[<*_]/g, '\\$&')
}

function code(fix: string): string {
  return `\`\`\`\n${fix}\n\`\`\``
}

/** JSON Schema of preflight.json. */
export function preflightSchema(): string {
  return `${JSON.stringify(z.toJSONSchema(Preflight), null, 2)}\n`
}
