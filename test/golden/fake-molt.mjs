// Plays `molt` in a golden test: prints what the case's file contains, and changes the databases as the case says.
// Usage: node fake-molt.mjs CASE.json ARGUMENTS…
import { readFileSync, writeFileSync } from 'node:fs'

const [file, ...args] = process.argv.slice(2)
const golden = JSON.parse(readFileSync(file, 'utf8'))
writeFileSync(`${file}.argv`, JSON.stringify(args))

async function run(side, statements) {
  const { default: pg } = await import('pg')
  const client = new pg.Client(args[args.indexOf(`--${side}`) + 1])
  await client.connect()
  const { rows } = await client.query(statements)
  await client.end()
  return rows?.[0]
}

let cursor = '0/1'
for (const side of ['source', 'target']) if (golden[side]) await run(side, golden[side])
if (golden.slot) {
  const slot = args[args.indexOf('--pglogical-replication-slot-name') + 1]
  const made = await run('source', `SELECT lsn FROM pg_create_logical_replication_slot('${slot}', 'pgoutput')`)
  cursor = made.lsn
}
const text = (template) => template.replaceAll('$CURSOR', cursor).replaceAll('$TEN_MEGABYTES', 'x'.repeat(10_000_000))
const write = (stream, template) => new Promise((resolve) => stream.write(text(template), resolve))
await write(process.stdout, golden.stdout)
await write(process.stderr, golden.stderr)
if (golden.signal) {
  process.kill(process.pid, golden.signal)
  await new Promise((resolve) => setTimeout(resolve, 10_000))
}
process.exit(golden.exit)
