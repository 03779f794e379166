// An action's output: its summary, and the error with which it fails.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type Context, runAction } from '../../src/runtime/action.ts'
import { refuse, ToolError } from '../../src/runtime/errors.ts'
import { defineAction } from '../../src/runtime/spec.ts'

const spec = defineAction({
  name: 'tell',
  title: 'T',
  description: 'Only for this test.',
  icon: 'x',
  inputs: {},
  outputs: {},
})

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-action-'))
  for (const file of ['GITHUB_STEP_SUMMARY', 'GITHUB_OUTPUT']) {
    writeFileSync(join(folder, file), '')
    vi.stubEnv(file, join(folder, file))
  }
  vi.spyOn(process.stdout, 'write').mockReturnValue(true)
})
afterEach(() => {
  process.exitCode = undefined
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true, force: true })
})

async function summaryOf(run: (context: Context<typeof spec>) => Promise<void>): Promise<string> {
  await runAction({ spec, run }, 'run', [spec])
  return readFileSync(join(folder, 'GITHUB_STEP_SUMMARY'), 'utf8')
}

test('adds a blank line after a collapsed section of the summary', async () => {
  const summary = await summaryOf(async (context) => {
    context.summary('<details><summary>One</summary>\n\nrows\n</details>')
    context.summary('### Two')
  })
  expect(summary).toContain('</details>\n\n### Two\n')
})

/** The next command, which the summary shows below the alert. */
const NEXT = '**Next:** \n\n```sh\nnpm run action -- tell --source "$MOLT_SOURCE" --target "$MOLT_TARGET"\n```\n\n'

test("reports a program's failed connection as the program's failure, not the action's", async () => {
  const said = 'connect ECONNREFUSED 127.0.0.1:26257'
  const summary = await summaryOf(async () => {
    throw new ToolError({ code: 'tool.failed', program: 'molt', args: [], ending: 'ended with exit code 1', said })
  })
  expect(summary).toBe(`> [!CAUTION]\n> molt ended with exit code 1. Last line: ${said} [tool.failed]\n\n${NEXT}`)
  expect(readFileSync(join(folder, 'GITHUB_OUTPUT'), 'utf8')).toMatch(/error-code[\s\S]*tool\.failed/)
  expect(readFileSync(join(folder, 'GITHUB_OUTPUT'), 'utf8')).toMatch(/error-kind[\s\S]*tool/)
})

test('does not repeat a list in the error if the summary already shows it', async () => {
  const summary = await summaryOf(async () =>
    refuse('preflight.blocked', '2 findings block', ['a; b', 'c'], 'Fix these.', { summarized: true }),
  )
  expect(summary).toBe(`> [!CAUTION]\n> 2 findings block. Fix these. [preflight.blocked]\n\n${NEXT}`)
})

test('shows a multi-line error as one alert with separate lines', async () => {
  const summary = await summaryOf(async () =>
    refuse('preflight.blocked', '2 findings block', ['a; b', 'c'], 'Fix these.'),
  )
  expect(summary).toBe(
    `> [!CAUTION]\n> 2 findings block:\n>\n>   - a; b\n>\n>   - c\n>\n> Fix these. [preflight.blocked]\n\n${NEXT}`,
  )
})
