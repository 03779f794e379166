import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export const STAND_IN_MOLT = resolve(import.meta.dirname, '../../dist/stand-in-molt.cjs')

/** The Node.js that runs the stand-in's programs, the same as for the actions. */
export const NODE = process.env.MOLT_ACTIONS_NODE ?? process.execPath

let made: string | undefined

/**
 * Creates a folder with the `molt` and `replicator` that `setup` with `embedded` installs. Both cache their output of
 * `--help` and `version` for all tests of a run, because every action asks for both, and each answer starts a process.
 */
export function standInFolder(): string {
  if (made) return made
  const folder = mkdtempSync(join(tmpdir(), 'stand-in-'))
  // All workers of a run share the cache.
  const kept = join(tmpdir(), 'stand-in-answers')
  mkdirSync(kept, { recursive: true })
  for (const tool of ['molt', 'replicator']) {
    const bundle = resolve(import.meta.dirname, `../../dist/stand-in-${tool}.cjs`)
    writeFileSync(join(folder, tool), script(bundle, join(kept, tool)), { mode: 0o755 })
  }
  made = folder
  return folder
}

function script(bundle: string, kept: string): string {
  return `#!/bin/sh
for last do :; done
case $last in --help|--version|version)
  IFS=_
  answer="${kept}_$*"
  [ -f "$answer" ] || { ${nodeOn(bundle)} "$@" >"$answer.$$" && mv "$answer.$$" "$answer"; }
  exec cat "$answer"
esac
${launcher(bundle)}
`
}

/**
 * Shell words that run a program with Node. Tools run in a clean environment, so NODE_COMPILE_CACHE is passed
 * explicitly.
 */
function nodeOn(program: string): string {
  const cache = process.env.NODE_COMPILE_CACHE
  return `${cache ? `env NODE_COMPILE_CACHE='${cache}' ` : ''}'${NODE}' '${program}'`
}

/** The last line of a shell script that runs a Node program. */
export function launcher(program: string, args = ''): string {
  return `exec ${nodeOn(program)} ${args} "$@"`
}

/** Changes to molt's arguments and output that make it fail like the real tool. */
export interface Trick {
  /** Flag values to pass instead of the action's. */
  flags?: Record<string, string>
  add?: string[]
  /** Pattern of output lines to drop. */
  drop?: string
  /** Pattern of the output line at which molt is killed. */
  killAt?: string
  /** Pattern of the output line at which molt is frozen. */
  freezeAt?: string
  /** Table that molt reports as having no rows. */
  zero?: string
  /** Lines to print before all others. */
  says?: string[]
  /** Size in MiB of a single line to print before all others. */
  flood?: number
  /** Whether molt misreads both sides in the same way, so that no row differs. */
  blind?: boolean
  /** Lines that another build of the replicator prints before all others. */
  replicatorSays?: string[]
}

function otherReplicator(folder: string, says: readonly string[]): void {
  const said = join(folder, 'said')
  writeFileSync(said, says.map((line) => `${line}\n`).join(''))
  const script = readFileSync(join(standInFolder(), 'replicator'), 'utf8').replace(
    /^exec /m,
    `cat '${said}' >&2\nexec `,
  )
  writeFileSync(join(folder, 'replicator'), script, { mode: 0o755 })
}

/** Creates a folder with a `molt` that misbehaves as described by `trick`, and a replicator. */
export function trickedFolder(trick: Trick): string {
  const folder = mkdtempSync(join(tmpdir(), 'tricked-'))
  if (trick.replicatorSays) otherReplicator(folder, trick.replicatorSays)
  else symlinkSync(join(standInFolder(), 'replicator'), join(folder, 'replicator'))
  const program = `
const trick = ${JSON.stringify(trick)}
const bundle = ${JSON.stringify(STAND_IN_MOLT)}
const args = process.argv.slice(2)
const { spawn } = require('node:child_process')
const { createInterface } = require('node:readline')
const { writeSync } = require('node:fs')
for (const [flag, value] of Object.entries(trick.flags ?? {})) args[args.indexOf(flag) + 1] = value
args.push(...(trick.add ?? []))
for (const line of trick.says ?? []) process.stdout.write(line + '\\n')
for (let i = 0; i < (trick.flood ?? 0); i++) writeSync(1, 'x'.repeat(2 ** 20))
if (trick.flood) process.stdout.write('\\n')
const molt = spawn(process.execPath, [bundle, ...args], { stdio: ['inherit', 'pipe', 'inherit'] })
createInterface({ input: molt.stdout }).on('line', (line) => {
  if (trick.killAt && new RegExp(trick.killAt).test(line)) {
    molt.kill('SIGKILL')
    process.kill(process.pid, 'SIGKILL')
  }
  if (trick.freezeAt && new RegExp(trick.freezeAt).test(line)) molt.kill('SIGSTOP')
  if (trick.blind && /"(missing|mismatching|extraneous) row/.test(line)) return
  if (trick.blind) line = line.replace(/"num_(missing|mismatch|extraneous)":\\d+/g, '"num_$1":0')
  if (trick.blind) line = line.replace(/("num_truth_rows":)(\\d+)(.*"num_success":)\\d+/, '$1$2$3$2')
  if (trick.zero && line.includes(trick.zero)) line = line.replace(/"num_rows":\\d+/, '"num_rows":0')
  if (!trick.drop || !new RegExp(trick.drop).test(line)) process.stdout.write(line + '\\n')
})
process.on('SIGTERM', () => molt.kill('SIGTERM'))
molt.on('close', (code) => process.exit(code ?? 1))
`
  writeFileSync(join(folder, 'molt.cjs'), program)
  const asked = `case "$*" in *--help|*--version) exec '${join(standInFolder(), 'molt')}' "$@" ;; esac`
  writeFileSync(join(folder, 'molt'), `#!/bin/sh\n${asked}\n${launcher(join(folder, 'molt.cjs'))}\n`, { mode: 0o755 })
  return folder
}
