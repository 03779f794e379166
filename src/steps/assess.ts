import { totalmem } from 'node:os'
import type { Facts, Machine, Settings, UrlFacts } from '../checks/facts.ts'
import type { Schema } from '../migration/schema.ts'
import { connect, type Database } from '../runtime/database.ts'
import { readConnection, readSamples, readSourceCatalog } from '../source/assess.ts'
import { readTargetFacts } from '../target/assess.ts'
import { findTool, sha256, type ToolName, toolVersion } from '../tools/versions.ts'

export interface AssessOptions {
  sourceUrl: string
  targetUrl: string
  /** All but what the source's schema decides. */
  settings: Omit<Settings, 'tables' | 'filter'>
  choose(schema: Schema): { tables: readonly string[]; filter: string }
  walWindowMs?: number
  sampleRows?: number
  sampleMs?: number
}

const SAMPLE_ROWS = 10_000
const SAMPLE_MS = 10_000
const WAL_WINDOW_MS = 2_000

/**
 * Gathers everything that the checks look at, on connections of its own on which the server refuses every write.
 * Costs at most 20 catalog queries a side; data are looked at within a bound of rows and time.
 */
export async function assess(options: AssessOptions): Promise<Facts> {
  const open: Database[] = []
  const readOnly = async (side: 'source' | 'target') => {
    const db = await connect(side === 'source' ? options.sourceUrl : options.targetUrl, side)
    open.push(db)
    await db.query('SET default_transaction_read_only = on')
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
    walWindowMs: options.walWindowMs ?? WAL_WINDOW_MS,
    sampleRows: options.sampleRows ?? SAMPLE_ROWS,
    sampleMs: options.sampleMs ?? SAMPLE_MS,
  }
  const chosen = deferred<{ tables: readonly string[]; filter: string }>()
  const readSource = async () => {
    const catalog = await readSourceCatalog(source, second, question, (schema) => chosen.resolve(choose(schema)))
    const connection = await readConnection(source, second)
    return { ...catalog, connection, samples: await readSamples(source, catalog.schema, question) }
  }
  // The two servers have nothing to do with each other; only which tables are meant is known from the source.
  const tables = chosen.promise.then((found) => found.tables)
  // Nobody asks for them once the target has failed by itself.
  tables.catch(() => {})
  const [sourceFacts, targetFacts] = await Promise.all([
    readSource().catch((error) => {
      chosen.reject(error)
      throw error
    }),
    readTargetFacts(target, { schema: settings.targetSchema, tables }),
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

/** What can be told of a URL without telling it. */
export function urlFacts(url: string): UrlFacts {
  const [, , password = '', host = ''] = /^postgres(?:ql)?:\/\/(?:([^:@/]*)(?::([^@]*))?@)?([^/?]*)/.exec(url) ?? []
  return {
    sslmode: /[?&]sslmode=([^&]*)/.exec(url)?.[1] ?? '',
    local: /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])?(:\d+)?$/.test(host),
    // What Go, in which the tools are written, takes in this part of a URL; anything else it refuses.
    passwordSurvives: /^([A-Za-z0-9\-._:~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*$/.test(password),
  }
}

async function readTool(tool: ToolName): Promise<{ version: string; sha256: string } | null> {
  const program = findTool(tool)
  if (!program) return null
  return { version: await toolVersion(program, tool), sha256: await sha256(program) }
}
