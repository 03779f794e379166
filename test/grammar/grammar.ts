import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'

const HERE = import.meta.dirname
const PROGRAM = join(HERE, '../../node_modules/.cache/grammar/grammar')

/** Whether the program is built or can be built. Without Go, its tests are skipped with a notice, except in CI. */
export async function canParse(): Promise<boolean> {
  if (existsSync(PROGRAM)) return true
  const { failed } = await execa('go', ['version'], { reject: false })
  if (!failed || process.env.CI) return true
  console.warn('The grammar tests are skipped: Go is not installed')
  return false
}

export type Answer = { statements: string[] } | { error: string }

/** Builds the Go program once. A cold build takes minutes. */
async function build(): Promise<void> {
  const built = existsSync(PROGRAM) ? statSync(PROGRAM).mtimeMs : 0
  if (['main.go', 'go.mod'].every((name) => statSync(join(HERE, name)).mtimeMs <= built)) return
  mkdirSync(join(PROGRAM, '..'), { recursive: true })
  await execa('go', ['build', '-o', PROGRAM, '.'], { cwd: HERE })
}

/** Parses each script with CockroachDB's grammar (v25.2). A script can contain several statements. */
export async function parseAll(scripts: readonly string[]): Promise<Answer[]> {
  await build()
  const { stdout } = await execa(PROGRAM, { input: scripts.map((each) => `${JSON.stringify(each)}\n`).join('') })
  return stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
}
