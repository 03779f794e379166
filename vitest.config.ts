import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/global-setup.ts',
    // Most tests run child processes and database servers; more workers only make each other's deadlines pass.
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // They import JSON without import attributes, which plain Node refuses; Vite does not.
    server: { deps: { inline: [/@actions\/(expressions|workflow-parser)/] } },
  },
})
