import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export const STAND_IN_MOLT = resolve(import.meta.dirname, '../../dist/stand-in-molt.cjs')

/** Node of the stand-in's programs: that of the actions. */
export const NODE = process.env.MOLT_ACTIONS_NODE ?? process.execPath

let made: string | undefined

/**
 * The folder of the programs `molt` and `replicator` that `setup` with `embedded` would install. What they answer to
 * `--help` and `version` is kept for all tests of a run: each action asks for both, and each answer is a process.
 */
export function standInFolder(): string {
  if (made) return made
  const folder = mkdtempSync(join(tmpdir(), 'stand-in-'))
  // Shared by all workers of a run.
  const kept = join(tmpdir(), 'stand-in-answers')
  mkdirSync(kept, { recursive: true })
  for (const tool of ['molt', 'replicator']) {
    const bundle = resolve(import.meta.dirname, `../../dist/stand-in-${tool}.cjs`)
    writeFileSync(join(folder, tool), script(NODE, bundle, join(kept, tool)), { mode: 0o755 })
  }
  made = folder
  return folder
}

function script(node: string, bundle: string, kept: string): string {
  const cache = process.env.NODE_COMPILE_CACHE
  return `#!/bin/sh
${cache ? `export NODE_COMPILE_CACHE='${cache}'` : ''}
for last do :; done
case $last in --help|--version|version)
  IFS=_
  answer="${kept}_$*"
  [ -f "$answer" ] || { '${node}' '${bundle}' "$@" >"$answer.$$" && mv "$answer.$$" "$answer"; }
  exec cat "$answer"
esac
exec '${node}' '${bundle}' "$@"
`
}
