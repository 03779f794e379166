import { totalmem } from 'node:os'
import type { Schema } from '../../model/schema.ts'
import { connect, type Database, READ_ONLY } from '../../runtime/database.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readSequences } from '../../sql/sequences.ts'
import { findTool, sha256, type ToolName, toolHelp, toolVersion } from '../../tools/versions.ts'
import type { Facts, Machine, Settings, Tool, UrlFacts } from './facts.ts'
import { readToolSession } from './session.ts'
import { readConnection, readSamples, readSequenceFacts, readSourceCatalog } from './source.ts'
import { readTargetFacts } from './target.ts'

export interface AssessOptions {
  sourceUrl: string
  targetUrl: string
  /** All settings except those that depend on the source's schema. */
  settings: Omit<Settings, 'tables' | 'filter'>
  choose(schema: Schema): { tables: readonly string[]; filter: string }
  walWindowMs?: number
  sampleRows?: number
  sampleMs?: number
}

const SAMPLE_ROWS = 10_000

/**
 * Gathers everything that the checks read, in separate read-only sessions. Runs at most 20 catalog queries per side,
 * and samples a limited number of rows for a limited time.
 */
export async function assess(options: AssessOptions): Promise<Facts> {
  const open: Database[] = []
  const readOnly = async (side: 'source' | 'target') => {
    const url = side === 'source' ? options.sourceUrl : options.targetUrl
    const db = await connect(url, side, undefined, undefined, { settings: READ_ONLY })
    open.push(db)
    return db
  }
  try {
    const [source, second, target] = [await readOnly('source'), await readOnly('source'), await readOnly('target')]
    return await gather(options, source, second, target)
  } finally {
    for (const db of open) await db.end().catch(() => {})
  }
}

async function gather(options: AssessOptions, source: Database, second: Database, target: Database): Promise<Facts> {
  const { settings, choose } = options
  const question = {
    schema: settings.schema,
    slot: settings.slot,
    publication: settings.publication,
    choose,
    walWindowMs: options.walWindowMs ?? TIMING.walWindow,
    sampleRows: options.sampleRows ?? SAMPLE_ROWS,
    sampleMs: options.sampleMs ?? TIMING.sampleLimit,
  }
  const chosen = deferred<{ tables: readonly string[]; filter: string }>()
  const readSource = async () => {
    const catalog = await readSourceCatalog(source, second, question, (schema) => chosen.resolve(choose(schema)))
    const connection = await readConnection(source, second, options.sourceUrl)
    const tools = await readToolSession(options.sourceUrl, 'source')
    const moved = (await chosen.promise).tables
    const sequences = await readSequenceFacts(source, settings.schema, moved)
    return {
      ...catalog,
      connection,
      tools,
      sequences,
      samples: await readSamples(source, catalog.schema, catalog.relations, question),
    }
  }
  // Both sides are read in parallel, but the expected tables are known only once the source's schema is.
  const tables = chosen.promise.then((found) => found.tables)
  // Prevents an unhandled rejection if the target fails first.
  tables.catch(() => {})
  const readTarget = async () => {
    const catalog = await readTargetFacts(target, {
      migration: settings.migration,
      schema: settings.targetSchema,
      tables,
    })
    return {
      ...catalog,
      tools: await readToolSession(options.targetUrl, 'target'),
      sequences: await readSequences(target, settings.targetSchema),
    }
  }
  const [sourceFacts, targetFacts] = await Promise.all([
    readSource().catch((error) => {
      chosen.reject(error)
      throw error
    }),
    readTarget(),
  ])
  return {
    source: sourceFacts,
    target: targetFacts,
    settings: { ...settings, ...(await chosen.promise) },
    machine: await readMachine(options.sourceUrl, options.targetUrl),
  }
}

function deferred<T>() {
  let resolve: (value: T) => void = () => {}
  let reject: (reason: unknown) => void = () => {}
  const promise = new Promise<T>((done, failed) => {
    resolve = done
    reject = failed
  })
  return { promise, resolve, reject }
}

async function readMachine(source: string, target: string): Promise<Machine> {
  return {
    memoryBytes: totalmem(),
    now: new Date(),
    urls: { source: urlFacts(source), target: urlFacts(target) },
    tools: { molt: await readTool('molt'), replicator: await readTool('replicator') },
  }
}

/** Facts about a URL, without its secrets. */
export function urlFacts(url: string): UrlFacts {
  const [, , password = '', host = ''] = /^postgres(?:ql)?:\/\/(?:([^:@/]*)(?::([^@]*))?@)?([^/?]*)/.exec(url) ?? []
  return {
    sslmode: /[?&]sslmode=([^&]*)/.exec(url)?.[1] ?? '',
    local: /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])?(:\d+)?$/.test(host),
    // The tools are written in Go, which accepts only these characters in a URL's password.
    passwordSurvives: /^([A-Za-z0-9\-._:~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*$/.test(password),
  }
}

async function readTool(tool: ToolName): Promise<Tool | null> {
  const program = findTool(tool)
  if (!program) return null
  const [version, digest] = [await toolVersion(program, tool), await sha256(program)]
  if (tool === 'molt') return { version, sha256: digest }
  return { version, sha256: digest, stopsOnToast: await stopsOnToast(program, version) }
}

/**
 * Whether this replicator stops on an unchanged TOASTed value. A build from source has no version, so its help text
 * decides: 1.0 lists the flag below [seen]. Newer builds read the value from the target and hide the flag as deprecated
 * (commit 0ab0b9a3 of July 2024, not in any tag from 1.0.0 to 1.0.4).
 */
export async function stopsOnToast(program: string, version: string): Promise<boolean> {
  if (/^v?\d/.test(version)) return /^v?1\.0\./.test(version)
  return (await toolHelp(program, 'pglogical').catch(() => '')).includes('--enableToastedColumns')
}
