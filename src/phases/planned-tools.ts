import { warning } from '@actions/core'
import type { Plan } from '../model/plan.ts'
import { VerdictError } from '../runtime/errors.ts'
import { requireToolPasswords } from '../runtime/password-command.ts'
import { findTool, sha256, type ToolName } from '../tools/versions.ts'

/** The check of `prepare` by whose name, and a program's, a plan takes whatever program later jobs bring. */
const WAIVED_BY = 'tool.version'

/**
 * What was rehearsed and approved is a plan with its programs; others may move the data otherwise. One that is not on
 * the PATH is told by whoever starts it, and of one that `prepare` has not seen nothing is known.
 * @throws VerdictError for the first that is another one than `prepare` has seen; UserError when they have no lasting password
 */
export async function requirePlannedTools(
  plan: Plan,
  urls: { source: string; target: string },
  ...tools: ToolName[]
): Promise<void> {
  requireToolPasswords([urls.source, urls.target])
  for (const tool of tools) {
    const program = plan.tools?.[tool] && findTool(tool)
    if (program) requirePlannedTool(plan, tool, await sha256(program))
  }
}

/** The same for a program of which the sha256 is known. */
export function requirePlannedTool({ tools = {}, waivers = [] }: Plan, tool: string, found: string): void {
  const planned = tools[tool]
  if (!planned || planned === found) return
  const text = `${tool} on this runner is not the program of the plan: its sha256 is ${found}, and \`prepare\` has seen ${planned}`
  const waiver = [`${WAIVED_BY}=${tool}`, `${WAIVED_BY}=*`].find((each) => waivers.includes(each))
  if (!waiver)
    throw new VerdictError(
      'tools.not-planned',
      `${text}. Another program may move or compare the data otherwise than was rehearsed and approved. Set the same \`version\` and \`checksum\` of \`setup\` for all jobs; before the load, \`prepare\` can also be run again with this program, or with \`waive: ${WAIVED_BY}=${tool}\``,
    )
  warning(`${text}; the plan accepts that (\`waive: ${waiver}\`)`)
}
