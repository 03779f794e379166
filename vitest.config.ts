import { defineConfig } from 'vitest/config'

/** Tests that take minutes each. Only `npm run test:nightly` runs them. */
export const NIGHTLY = [
  'test/e2e/mask.test.ts',
  'test/grammar/convert.test.ts',
  'test/contract/every-grant.test.ts',
  'test/e2e/corpus.test.ts',
  'test/e2e/follow-cutover.test.ts',
  'test/e2e/rehearse-workflow.test.ts',
  'test/e2e/source-versions.test.ts',
  'test/e2e/two-migrations.test.ts',
  'test/faults/refused-statements.test.ts',
  'test/e2e/observe.test.ts',
  'test/e2e/rolling.test.ts',
  'test/faults/after-commit.test.ts',
  'test/faults/lifecycle.test.ts',
  'test/faults/load-nights.test.ts',
  'test/faults/cutover-kill.test.ts',
  'test/faults/estimate.test.ts',
  'test/faults/cutover-nights.test.ts',
  'test/faults/night-model.test.ts',
  'test/security/hostile-tools.test.ts',
  'test/security/canaries.test.ts',
  'test/security/least-privilege.test.ts',
]

/** Tests with a long form for nightly runs and a short one for the other runs. */
export const LONGER_AT_NIGHT = [
  'test/contract/write-access.test.ts',
  'test/e2e/chain.test.ts',
  'test/golden/convert.test.ts',
  'test/faults/cutover.test.ts',
  'test/faults/rolling.test.ts',
  'test/faults/proof.test.ts',
  'test/faults/stream-heals.test.ts',
  'test/tooling/rehearse-cli.test.ts',
  'test/unit/dirty-keys.test.ts',
]

/** Groups of test files that have their own npm command, which runs their long form. */
export const GROUPS: Readonly<Record<string, readonly string[]>> = {
  faults: ['test/faults/table.test.ts', 'test/faults/night-model.test.ts', 'test/faults/proof-model.test.ts'],
  security: [
    'test/security/fuzz.test.ts',
    'test/security/hostile-tools.test.ts',
    'test/security/canaries.test.ts',
    'test/security/least-privilege.test.ts',
    'test/contract/attacks.test.ts',
    'test/contract/every-grant.test.ts',
    'test/contract/printed-grants.test.ts',
    'test/unit/dossier.test.ts',
    'test/unit/passwords.test.ts',
    'test/unit/row-values.test.ts',
    'test/unit/scrub.test.ts',
  ],
}

/** Tests that replace modules or clocks, so each file has its own process. Other files in a worker share loaded modules. */
const APART = 'test/unit/{stall,target-client,timing}.test.ts'

/** Tests that start no database server. */
const LIGHT = [
  'test/unit/!(stall|target-client|timing).test.ts',
  'test/contract/{adopt,attacks,docs,examples,language-service,metadata,workflows}.test.ts',
]

const TOOLING = 'test/tooling/**/*.test.ts'

const shared = {
  // These limits only stop tests that hang. They leave room for busy machines.
  testTimeout: 120_000,
  hookTimeout: 120_000,
  // Workers allocate gigabytes of short-lived objects. A larger semi-space means fewer copies during garbage collection.
  execArgv: ['--max-semi-space-size=64'],
  // These packages import JSON without import attributes, which Vite accepts but Node.js rejects.
  server: { deps: { inline: [/@actions\/(expressions|workflow-parser|languageservice)/] } },
}

const SERVERS = { include: ['test/**/*.test.ts'], exclude: [...NIGHTLY, ...LIGHT, APART, TOOLING] }

// Hides the warnings about missing source files in the workflow parser's package. Projects do not inherit it.
const logLevel = 'error' as const

const BY_DAY = [
  { logLevel, test: { ...shared, name: 'light', include: LIGHT, isolate: false } },
  { logLevel, test: { ...shared, name: 'apart', include: [APART] } },
  { logLevel, test: { ...shared, name: 'servers', ...SERVERS, isolate: false } },
  { logLevel, test: { ...shared, name: 'tooling', include: [TOOLING], isolate: false } },
]

const { MOLT_ACTIONS_NIGHTLY: night, MOLT_ACTIONS_GROUP: name = '', MOLT_ACTIONS_PART: only } = process.env
const grouped = Object.values(GROUPS).flat()
const ofNight = [...NIGHTLY, ...LONGER_AT_NIGHT].filter((each) => !grouped.includes(each))
const long = GROUPS[name] ?? (night ? ofNight : undefined)
/** Fault runs split their files into parts, one for each worker, because there are only three files. */
const PARTS = name !== 'faults' ? [''] : only ? [only] : ['1/3', '2/3', '3/3']

export default defineConfig({
  logLevel,
  test: {
    globalSetup: 'test/global-setup.ts',
    // Tests spend half their time waiting for child processes and servers. With more workers, they miss deadlines.
    maxWorkers: 3,
    projects: long
      ? PARTS.map((part) => ({
          logLevel,
          test: {
            ...shared,
            name: `long ${part}`.trim(),
            include: [...long],
            ...(part && { env: { MOLT_ACTIONS_PART: part } }),
          },
        }))
      : BY_DAY,
  },
})
