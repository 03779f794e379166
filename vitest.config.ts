import { defineConfig } from 'vitest/config'

/** Minutes each; `npm run test:nightly` runs these alone. */
const NIGHTLY = [
  'test/e2e/mask.test.ts',
  'test/grammar/convert.test.ts',
  'test/contract/every-grant.test.ts',
  'test/e2e/follow-cutover.test.ts',
  'test/e2e/rehearse-workflow.test.ts',
  'test/e2e/source-versions.test.ts',
  'test/e2e/observe.test.ts',
  'test/faults/after-commit.test.ts',
  'test/faults/lifecycle.test.ts',
  'test/faults/cutover-kill.test.ts',
  'test/faults/cutover-nights.test.ts',
]

export default defineConfig({
  // The workflow parser's source maps name files that its package does not hold; a warning for each would hide our own.
  logLevel: 'error',
  test: {
    include: process.env.MOLT_ACTIONS_NIGHTLY ? NIGHTLY : ['test/**/*.test.ts'],
    exclude: process.env.MOLT_ACTIONS_NIGHTLY ? [] : NIGHTLY,
    globalSetup: 'test/global-setup.ts',
    // Deadlines are for tests that hang, not for machines that are busy.
    // Most tests run child processes and database servers; more workers only make each other's deadlines pass.
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // They import JSON without import attributes, which plain Node refuses; Vite does not.
    server: { deps: { inline: [/@actions\/(expressions|workflow-parser|languageservice)/] } },
  },
})
