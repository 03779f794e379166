// Replaces `docker` in a rehearsal. The containers are embedded servers that already run, and become ready a bit late.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'

const { DOCKER_STATE = '', DOCKER_SOURCE = '', DOCKER_TARGET = '' } = process.env
const [command, ...args] = process.argv.slice(2)
const state = (name) => join(DOCKER_STATE, name)
const after = (flag) => args[args.indexOf(flag) + 1]

async function query(url, database) {
  const connection = new URL(url)
  if (database) connection.pathname = `/${database}`
  const inline = ['-c', '-e'].find((flag) => args.includes(flag))
  const client = new pg.Client({ connectionString: connection.href })
  await client.connect()
  try {
    await client.query(inline ? after(inline) : readFileSync(0, 'utf8'))
  } finally {
    await client.end()
  }
}

async function exec() {
  const name = args.find((arg) => arg === 'source' || arg === 'target')
  if (!existsSync(state(name))) throw new Error(`no such container: ${name}`)
  const [program] = args.slice(args.indexOf(name) + 1)
  const asked = `${program}-asked`
  if (program === 'psql') return query(DOCKER_SOURCE, after('-d'))
  if (program === './cockroach') return query(DOCKER_TARGET)
  if (existsSync(state(asked))) return undefined
  writeFileSync(state(asked), '')
  throw new Error('not ready')
}

try {
  if (command === 'run') writeFileSync(state(after('--name')), args.join(' '))
  else if (command === 'exec') await exec()
  else if (command === 'inspect') process.exitCode = existsSync(state(args[0])) ? 0 : 1
  else if (command === 'rm') for (const name of args) rmSync(state(name), { force: true })
  else if (command !== 'logs') throw new Error(`unknown command ${command}`)
} catch (error) {
  console.error(String(error))
  process.exitCode = 1
}
