import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { InputError, messageOf } from '../../src/runtime/errors.ts'
import { number } from '../../src/runtime/progress.ts'
import { duration } from '../../src/runtime/types.ts'
import { urlProblem } from '../../src/runtime/url.ts'
import { type FetchMode, MODES } from '../../src/tools/molt-fetch.ts'
import type { CockroachOptions } from '../cockroach/server.ts'
import { loadManifest } from '../runner/manifest.ts'
import { DEFAULT_RATE } from '../shop/load.ts'
import { GROWN_ROWS } from '../shop/masked-shop.ts'
import { DEFAULT_ROWS } from '../shop/shop.ts'

const REPO = resolve(import.meta.dirname, '../..')

export const HELP = `Rehearses a migration with the committed actions, under live writes.

  npm run rehearse                       an embedded PostgreSQL, a CockroachDB-like server, and a sample shop
  npm run rehearse -- --source URL --allow-source DBNAME
                                         your own PostgreSQL into a CockroachDB-like server. Converts the schema first
                                         (.rehearsal/schema/report.md lists what changes), then moves all of it.
                                         Discards the target unless you set --keep.
  npm run rehearse -- --source URL --target URL --allow-source DBNAME
                                         your own databases. Near the end, the source refuses writes for a few seconds
                                         (--max-pause). Never commits. Removes slot, publication, fence, ledger and
                                         heartbeat. The loaded rows stay on the target: empty its tables before the
                                         next run.
  npm run rehearse -- --mask             a third server acts as production: a shop of 20 tables with personal data and
                                         planted canaries. \`mask\` copies it into the source. At the end, everything
                                         that was written, including WAL, is searched for the canaries

Options
  --rows N             rows of the sample shop (default ${number(DEFAULT_ROWS)}; with --mask ${number(GROWN_ROWS)})
  --rate N             transactions per second (default ${DEFAULT_RATE}). On your own databases: none by default. If set,
                       updates that set columns to the values they already have
  --keep               keeps the embedded servers, logs and evidence, and prints how to stop them
  --source URL         PostgreSQL to rehearse on
  --target URL         database to load into; its tables must exist and be empty
  --decisions FILE     convert.yml, your decisions about the converted schema
  --allow-source NAME  name of the source's database, to confirm that you mean it
  --mode MODE          how rows are moved: import, use-copy or direct-copy, as in \`fetch\` (default: import;
                       with --target but without --bucket-path: direct-copy)
  --files WHERE        where import and use-copy keep their files: bucket, an S3-compatible server that the rehearsal
                       starts, or folder, which molt serves itself (default: bucket; with --bin-dir: folder)
  --bucket-path URL    your own bucket, with --target; its keys come from AWS_* variables
  --bin-dir DIR        folder with molt and replicator, instead of the embedded stand-in; never commits
  --target-version V   the CockroachDB version that the target imitates and the schema is converted for: 24.3, 25.2,
                       26.1, … (default 25.2)
  --latency 20ms       extra time for each statement on the CockroachDB-like target
  --ddl 300ms          extra time for each schema change and grant on it
  --retry-rate 0.02    share of its statements that fail with 40001
  --printed-grants     runs the chain as roles with exactly the privileges that \`grants: print\` lists, on a target with roles
                       that can write, unique indexes, checks and foreign keys
  --NAME VALUE         any other input of the chain, such as config, schema, tables, defer, waive, table-handling,
                       allow-truncate, final-verify or max-pause; action.yml lists them
  --json               prints one JSON object as the last line of standard output
  --help               prints this text

The dossier in .rehearsal/dossier.html shows what was proved, the parts of the pause, and every remaining difference.

Exit status: 0 for "go", 1 for "no-go", 2 for wrong usage, 130 when interrupted.`

export interface Options {
  rows: number
  rate: number | undefined
  keep: boolean
  json: boolean
  source?: string
  /** If undefined, the rehearsal starts its own target, and `convert` creates the tables. */
  target?: string
  binDir?: string
  mask: boolean
  /** Undefined if the config file sets the mode. */
  mode: FetchMode | undefined
  /** The chain's inputs as given. */
  chain: Record<string, string>
  /** The command that repeats this rehearsal, with variables in place of URLs. */
  again: string
  /** Whether to run the chain as roles with exactly the printed grants. */
  printedGrants: boolean
  /** Location of the load's files; undefined for a direct copy. */
  files: Files | undefined
  /** Settings of the CockroachDB-like target. */
  cluster: CockroachOptions
}

/** The rehearsal's own bucket, a folder that molt serves, or the user's bucket. */
export type Files = 'bucket' | 'folder' | { bucketPath: string }

/**
 * Parses the options of `npm run rehearse`.
 * @returns undefined if only help was requested
 * @throws InputError with a one-line reason
 */
export function readOptions(argv: string[]): Options | undefined {
  try {
    return soundOptions(argv)
  } catch (error) {
    // `parseArgs` can return messages of several lines.
    throw new InputError(
      error instanceof InputError ? error.code : 'rehearse.invalid-option',
      `${messageOf(error).replace(/\.?\n/g, '. ')} (see npm run rehearse -- --help)`,
    )
  }
}

function soundOptions(argv: string[]): Options | undefined {
  const names = chainInputs()
  const { values } = parseArgs({
    args: argv,
    options: {
      ...Object.fromEntries(names.map((name) => [name, { type: 'string' as const }])),
      rows: { type: 'string' },
      rate: { type: 'string' },
      keep: { type: 'boolean', default: false },
      source: { type: 'string' },
      target: { type: 'string' },
      decisions: { type: 'string' },
      'allow-source': { type: 'string' },
      'bin-dir': { type: 'string' },
      'target-version': { type: 'string' },
      latency: { type: 'string' },
      ddl: { type: 'string' },
      'retry-rate': { type: 'string' },
      mode: { type: 'string' },
      files: { type: 'string' },
      'bucket-path': { type: 'string' },
      'printed-grants': { type: 'boolean', default: false },
      mask: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return undefined
  const { source, target } = values
  requireSides(values)
  if (source && values.rows !== undefined)
    throw new InputError(
      'rehearse.invalid-option',
      '--rows works only with the sample shop: your own databases are not seeded',
    )
  if (source && values.mask)
    throw new InputError(
      'rehearse.invalid-option',
      '--mask works only with the sample shop. Mask your own data with the action `mask`',
    )
  const { mask, 'printed-grants': printedGrants } = values
  if (printedGrants && (source || mask))
    throw new InputError('rehearse.invalid-option', '--printed-grants works only with the sample shop, without --mask')
  return {
    rows: wholeNumber('rows', values.rows, mask ? 3000 : 1000) ?? (mask ? GROWN_ROWS : DEFAULT_ROWS),
    mask,
    rate: wholeNumber('rate', values.rate, 0) ?? (source ? undefined : DEFAULT_RATE),
    keep: values.keep,
    json: values.json,
    source,
    target,
    binDir: binDirOf(values['bin-dir']),
    printedGrants,
    chain: chainOf(values, names),
    again: againOf(argv),
    ...loadOf(values),
    cluster: clusterOf(values),
  }
}

/** @throws InputError if the source and target options contradict each other, or one looks like a mistake */
function requireSides(values: Partial<Record<'source' | 'target' | 'decisions' | 'allow-source', string>>): void {
  const { source, target, decisions } = values
  if (target !== undefined && source === undefined)
    throw new InputError('rehearse.invalid-option', '--target needs --source')
  if (decisions !== undefined && !source)
    throw new InputError(
      'rehearse.invalid-option',
      '--decisions works only with --source. The sample shop has no decisions',
    )
  for (const [name, url] of Object.entries({ source, target })) {
    const problem = url !== undefined && (urlProblem(url) ?? unreadable(url))
    if (problem) throw new InputError('rehearse.invalid-option', `--${name}: ${problem}`)
  }
  if (source) requireAllowed(source, values['allow-source'])
  else if (values['allow-source'] !== undefined)
    throw new InputError('rehearse.invalid-option', '--allow-source works only with --source')
}

/** Inputs that this command sets. */
const OWN_INPUTS = new Set(['source', 'target', 'migration', 'decision', 'cleanup', 'embedded', 'allow-insecure'])

/** Inputs of the chain that the user can set. */
function chainInputs(): string[] {
  const ids = loadManifest(REPO, REPO).inputs.map(({ id }) => id)
  return ids.filter((id) => !OWN_INPUTS.has(id))
}

/** Checks `mode`, `bucket-path` and `bin-dir` before passing them on. */
function chainOf(values: Record<string, unknown>, names: readonly string[]): Record<string, string> {
  const given = names.filter((name) => !['mode', 'bucket-path', 'bin-dir'].includes(name) && values[name] !== undefined)
  const inputs = Object.fromEntries(given.map((name) => [name, String(values[name])]))
  // The chain runs in a different working directory.
  return inputs.decisions ? { ...inputs, decisions: resolve(inputs.decisions) } : inputs
}

function againOf(argv: readonly string[]): string {
  const shown = argv.map((word, index) => {
    const side = /^--(source|target)(=)?/.exec(word)
    if (side?.[2]) return `--${side[1]}="$MOLT_${side[1]?.toUpperCase()}"`
    const before = /^--(source|target)$/.exec(argv[index - 1] ?? '')
    if (before) return `"$MOLT_${before[1]?.toUpperCase()}"`
    return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
  })
  return ['npm run rehearse', ...(shown.length ? ['--', ...shown] : [])].join(' ')
}

/** How rows are moved, and where their files are kept. */
function loadOf(
  values: Partial<Record<'mode' | 'files' | 'bucket-path' | 'target' | 'bin-dir' | 'config', string>>,
): Pick<Options, 'mode' | 'files'> {
  const { target, files, 'bucket-path': bucketPath, 'bin-dir': binDir, config } = values
  if (target && config && !values.mode && !bucketPath && !files) return { mode: undefined, files: undefined }
  const mode = values.mode ?? (target && !bucketPath ? 'direct-copy' : 'import')
  if (!isMode(mode)) throw new InputError('rehearse.invalid-option', `--mode must be ${Object.keys(MODES).join(', ')}`)
  if (files !== undefined && files !== 'bucket' && files !== 'folder')
    throw new InputError('rehearse.invalid-option', '--files must be bucket or folder')
  if (mode === 'direct-copy' && (files || bucketPath))
    throw new InputError(
      'rehearse.invalid-option',
      '--files does not work with --mode direct-copy, which writes no files',
    )
  if (mode === 'direct-copy') return { mode, files: undefined }
  if (!target && bucketPath)
    throw new InputError('rehearse.invalid-option', '--bucket-path needs --source and --target')
  if (target && files)
    throw new InputError('rehearse.invalid-option', '--files does not work with --target. Set --bucket-path')
  if (target && !bucketPath)
    throw new InputError('rehearse.invalid-option', `--mode ${mode} with --target needs --bucket-path`)
  if (bucketPath) return { mode, files: { bucketPath } }
  return { mode, files: files ?? (binDir ? 'folder' : 'bucket') }
}

function isMode(mode: string): mode is FetchMode {
  return Object.hasOwn(MODES, mode)
}

/** Settings of the CockroachDB-like target. */
function clusterOf(
  values: Partial<Record<'target-version' | 'latency' | 'ddl' | 'retry-rate', string>>,
): CockroachOptions {
  const version = values['target-version']
  if (version !== undefined && !/^\d{2}\.\d$/.test(version))
    throw new InputError('rehearse.invalid-option', '--target-version must be a version such as 25.2')
  const retryRate = Number(values['retry-rate'] ?? 0)
  if (!(retryRate >= 0 && retryRate < 1))
    throw new InputError('rehearse.invalid-option', '--retry-rate must be a number from 0 to below 1, such as 0.02')
  return {
    version,
    latency: milliseconds('latency', values.latency),
    ddlTime: milliseconds('ddl', values.ddl),
    retryRate,
  }
}

/** @throws InputError unless the value is a duration such as `20ms` */
function milliseconds(name: string, value: string | undefined): number {
  const parsed = duration.schema.safeParse(value ?? '0ms')
  if (!parsed.success) throw new InputError('rehearse.invalid-option', `--${name} must be ${duration.hint}`)
  return parsed.data
}

function binDirOf(value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  const folder = resolve(value)
  for (const tool of ['molt', 'replicator'])
    if (!existsSync(join(folder, tool)))
      throw new InputError('rehearse.invalid-option', `--bin-dir: ${tool} is missing in ${folder}`)
  return folder
}

/** Explains what is wrong with a URL. The parser's own error would show its password. */
function unreadable(url: string): string | undefined {
  try {
    databaseOf(url)
    return undefined
  } catch {
    return 'it is not a URL. Check its host and port: postgresql://user@host:5432/database'
  }
}

function databaseOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname.slice(1))
}

/** A rehearsal fences writes to the source for a moment, which must not happen to a database named by mistake. */
function requireAllowed(source: string, allowed: string | undefined): void {
  const database = databaseOf(source)
  if (allowed === database) return
  throw new InputError(
    'rehearse.source-not-allowed',
    `--allow-source must name the source's database: a rehearsal pauses its writes for a few seconds. To allow that, add --allow-source ${database}`,
  )
}

function wholeNumber(name: string, value: string | undefined, min: number): number | undefined {
  if (value === undefined) return undefined
  if (!/^\d+$/.test(value) || Number(value) < min)
    throw new InputError('rehearse.invalid-option', `--${name} must be a whole number of at least ${min}`)
  return Number(value)
}
