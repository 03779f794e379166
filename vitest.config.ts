import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // They import JSON without import attributes, which plain Node refuses; Vite does not.
    server: { deps: { inline: [/@actions\/(expressions|workflow-parser)/] } },
  },
})
