import { warning } from '@actions/core'
import type { Plan } from '../model/plan.ts'
import { VerdictError } from '../runtime/errors.ts'
import { requireToolPasswords } from '../runtime/password-command.ts'
import { findTool, sha256, type ToolName } from '../tools/versions.ts'

/** The check in `prepare` that must be waived for a plan to accept any build of a program. */
const WAIVED_BY = 'tool.version'

/**
 * Requires the programs that were rehearsed and approved, because other builds can move data differently. Ignores a
 * program that is not on the PATH, because the step that starts it reports this, and one that `prepare` did not record.
 * @throws VerdictError for the first program that differs from the plan's; UserError for a password that may expire
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

/** Requires that the program's sha256 is the one in the plan. */
export function requirePlannedTool({ tools = {}, waivers = [] }: Plan, tool: string, found: string): void {
  const planned = tools[tool]
  if (!planned || planned === found) return
  const text = `${tool} on this runner is not the program in the plan: its sha256 is ${found}, but \`prepare\` recorded ${planned}`
  const waiver = [`${WAIVED_BY}=${tool}`, `${WAIVED_BY}=*`].find((each) => waivers.includes(each))
  if (!waiver)
    throw new VerdictError(
      'tools.not-planned',
      `${text}. Another build can move or compare data differently from the one that was rehearsed and approved. Set the same \`version\` and \`checksum\` for \`setup\` in all jobs. Before the load, you can also rerun \`prepare\` with this program, or with \`waive: ${WAIVED_BY}=${tool}\``,
    )
  warning(`${text}. The plan accepts this (\`waive: ${waiver}\`)`)
}
