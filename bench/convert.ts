/** Measures `convert` on a schema with many tables: `npx tsx bench/convert.ts [tables] [rounds]`. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startPostgres } from '../rehearsal/postgres/postgres.ts'
import { runAction } from '../rehearsal/runner/runner.ts'
import { query, REPO, requireSuccess } from '../test/support/migration.ts'
import { collect } from './figures.ts'

const tables = Number(process.argv[2] ?? 2_000)
const rounds = Number(process.argv[3] ?? 5)
/** Statements per transaction. Limited, because each table takes locks until the commit. */
const AT_ONCE = 250

const server = await startPostgres({ name: 'source', settings: { max_locks_per_transaction: 1024 } })
const folder = mkdtempSync(join(tmpdir(), 'bench-convert-'))
try {
  for (let from = 0; from < tables; from += AT_ONCE)
    await query(
      server.url,
      `DO $$ BEGIN FOR n IN ${from}..${Math.min(from + AT_ONCE, tables) - 1} LOOP
        EXECUTE format('CREATE TABLE table_%1$s (id bigserial PRIMARY KEY, parent bigint REFERENCES table_%2$s,
          name text NOT NULL UNIQUE, price numeric(12,2) DEFAULT 0 CHECK (price >= 0), tags text[], more jsonb,
          created timestamptz DEFAULT now())', n, greatest(n - 1, 0));
        EXECUTE format('CREATE INDEX ON table_%s (created DESC) WHERE price > 0', n); END LOOP; END $$`,
    )
  const values: number[] = []
  for (let round = 0; round < rounds; round++) {
    const began = performance.now()
    const result = await runAction({
      dir: join(REPO, 'actions/convert'),
      repo: REPO,
      inputs: { source: server.url, out: join(folder, 'schema'), 'allow-insecure': 'true' },
      workDir: folder,
    })
    requireSuccess('convert', result)
    values.push((performance.now() - began) / 1000)
  }
  console.log(`${tables} tables: ${values.map((each) => each.toFixed(1)).join(', ')} s`)
  collect({ name: 'convert', unit: 's', values, goal: { most: 10 }, work: { of: 'tables', amount: tables } })
} finally {
  rmSync(folder, { recursive: true, force: true })
  await server.stop()
}
