import { defineConfig } from 'vitest/config'

/** Minutes each; only `npm run test:nightly` runs them. */
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

/** Have a longer form at night, and a short one in the other runs. */
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

/** Commands of their own, in their long form; `npm test` has a short one of each. */
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

/** Replace modules or clocks, so each has a process of its own. In all others a worker loads the sources once. */
const APART = 'test/unit/{stall,target-client,timing}.test.ts'

/** Start no server. */
const LIGHT = [
  'test/unit/!(stall|target-client|timing).test.ts',
  'test/contract/{adopt,attacks,docs,examples,language-service,metadata,workflows}.test.ts',
]

const TOOLING = 'test/tooling/**/*.test.ts'

const shared = {
  // Deadlines are for tests that hang, not for machines that are busy.
  testTimeout: 120_000,
  hookTimeout: 120_000,
  // A worker makes garbage by the gigabyte; with more room for what is new, less of it is copied.
  execArgv: ['--max-semi-space-size=64'],
  // They import JSON without import attributes, which plain Node refuses; Vite does not.
  server: { deps: { inline: [/@actions\/(expressions|workflow-parser|languageservice)/] } },
}

const SERVERS = { include: ['test/**/*.test.ts'], exclude: [...NIGHTLY, ...LIGHT, APART, TOOLING] }

const BY_DAY = [
  { test: { ...shared, name: 'light', include: LIGHT, isolate: false } },
  { test: { ...shared, name: 'apart', include: [APART] } },
  { test: { ...shared, name: 'servers', ...SERVERS, isolate: false } },
  { test: { ...shared, name: 'tooling', include: [TOOLING], isolate: false } },
]

const { MOLT_ACTIONS_NIGHTLY: night, MOLT_ACTIONS_GROUP: name = '', MOLT_ACTIONS_PART: only } = process.env
const grouped = Object.values(GROUPS).flat()
const ofNight = [...NIGHTLY, ...LONGER_AT_NIGHT].filter((each) => !grouped.includes(each))
const long = GROUPS[name] ?? (night ? ofNight : undefined)
/** A table of faults or a model is one file: each worker takes a part of it. */
const PARTS = name !== 'faults' ? [''] : only ? [only] : ['1/3', '2/3', '3/3']

export default defineConfig({
  // The workflow parser's source maps name files that its package does not hold; a warning for each would hide our own.
  logLevel: 'error',
  test: {
    globalSetup: 'test/global-setup.ts',
    // Tests wait for child processes and servers half of their time; with more workers they miss each other's deadlines.
    maxWorkers: 3,
    projects: long
      ? PARTS.map((part) => ({
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
