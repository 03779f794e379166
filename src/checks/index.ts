import type { Check } from './check.ts'
import { loadChecks } from './load.ts'
import { networkChecks } from './network.ts'
import { rightChecks } from './rights.ts'
import { serverChecks } from './server.ts'
import { tableChecks } from './tables.ts'
import { targetChecks } from './target.ts'
import { typeChecks } from './types.ts'

/** The checks by group, in the order of the report. */
export const GROUPS: readonly { prefixes: readonly string[]; title: string; checks: readonly Check[] }[] = [
  { prefixes: ['src'], title: 'Source server', checks: serverChecks },
  { prefixes: ['right'], title: 'Rights', checks: rightChecks },
  { prefixes: ['tbl'], title: 'Tables', checks: tableChecks },
  { prefixes: ['typ', 'dat', 'use'], title: 'Types and features', checks: typeChecks },
  { prefixes: ['tgt'], title: 'Target', checks: targetChecks },
  { prefixes: ['load'], title: 'Load', checks: loadChecks },
  { prefixes: ['net', 'tool'], title: 'Network and tools', checks: networkChecks },
]

export const CHECKS: readonly Check[] = GROUPS.flatMap((group) => group.checks)
