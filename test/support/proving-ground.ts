import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { createLedger } from '../../src/ledger/ledger.ts'
import type { Plan } from '../../src/model/plan.ts'
import type { ProofOptions } from '../../src/phases/rolling/session.ts'
import { digestTables } from '../../src/phases/verify/row-digests.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import {
  createHeartbeat,
  createTargetHeartbeat,
  HEARTBEAT,
  OUR_SCHEMA,
  readMarker,
  writeMarker,
} from '../../src/source/heartbeat.ts'
import { type Lsn, parseLsn } from '../../src/source/pgoutput.ts'
import { createPublication } from '../../src/source/publication.ts'
import { logSlotOf, seizeAndDrop } from '../../src/source/slot.ts'
import { readTables } from '../../src/sql/tables.ts'
import { FaultyReplicator } from './faulty-replicator.ts'
import { beginProof, endProof, isComplete, isQuiet, type Proof, untilProof } from './proofs.ts'
import { type Servers, startServers } from './servers.ts'

const SLOT = 'ground'

/** The outcome of a migration. */
export interface Verdict {
  /** Code of the error that ended it before the decision; undefined if every row was proved or compared in full. */
  red: string | undefined
  /** Tables compared in full, with the reason for each. */
  full: Record<string, string>
  /** Tables in which the comparison after the commit finds a difference. */
  late: string[]
  /** Tables that actually differ, compared value by value. */
  truth: string[]
}

/**
 * A prepared pair of servers, a replicator in this process with faults on demand, and a rolling proof. Gives the result
 * of a whole migration in a second or two.
 */
export class ProvingGround {
  readonly servers: Servers
  readonly plan: Plan
  s!: pg.Client
  /** An administrator's client of the target, which bypasses the CockroachDB-like server. */
  t!: pg.Client
  replicator!: FaultyReplicator
  readonly #clients: pg.Client[] = []
  readonly #proofs: Proof[] = []
  #beat: Promise<void> = Promise.resolve()
  #beating = false

  private constructor(servers: Servers, tables: readonly string[]) {
    this.servers = servers
    this.plan = { sourceSchema: 'public', targetSchema: 'public', tables: [...tables], slot: SLOT, publication: SLOT }
  }

  /** @param ddl runs on both sides */
  static async start(ddl: string, tables: readonly string[]): Promise<ProvingGround> {
    const settings = { max_prepared_transactions: 5, max_replication_slots: 20, max_wal_senders: 20 }
    const ground = new ProvingGround(await startServers({ settings }), tables)
    const { source, behind } = ground.servers
    ground.s = await ground.client(source.url)
    ground.t = await ground.client(behind.url)
    for (const db of [ground.s, ground.t]) await db.query(ddl)
    const { sourceId } = await createHeartbeat(ground.s, 'test')
    await createTargetHeartbeat(ground.t, 'public', sourceId)
    await createPublication(ground.s, SLOT, 'public', tables)
    await createLedger(ground.t)
    return ground
  }

  async client(url: string): Promise<pg.Client> {
    const client = new pg.Client(url)
    client.on('error', () => {})
    await client.connect()
    this.#clients.push(client)
    return client
  }

  /** Empties both sides except for `rows`, as after a load, and starts the stream. */
  async begin(rows = ''): Promise<void> {
    await this.end()
    const names = this.plan.tables.map(pg.escapeIdentifier).join(', ')
    for (const db of [this.s, this.t]) await db.query(`TRUNCATE ${names}; ${rows}`)
    await this.t.query(`DELETE FROM molt_actions.proofs; DELETE FROM ${HEARTBEAT}`)
    await this.s.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [SLOT])
    const { rows: beats } = await this.s.query(`SELECT * FROM ${OUR_SCHEMA}.${HEARTBEAT}`)
    await this.t.query(`INSERT INTO ${HEARTBEAT} VALUES (1, $1, $2, 0, '')`, [beats[0].migration, beats[0].source_id])
    await this.resume()
  }

  /** Streams again after {@link decide}, as after a cutover that failed. */
  async resume(): Promise<void> {
    this.replicator = await this.replicate()
    this.#beating = true
    this.#beat = this.#keepBeating()
  }

  replicate(targetUrl = this.servers.target.url): Promise<FaultyReplicator> {
    const { source } = this.servers
    return FaultyReplicator.start({ sourceUrl: source.url, targetUrl, database: 'shop', slot: SLOT, publication: SLOT })
  }

  async #keepBeating(): Promise<void> {
    const db = await this.client(this.servers.source.url)
    await db.query('SET synchronous_commit = local')
    for (; this.#beating; await sleep(40)) await writeMarker(db, '').catch(() => {})
    await db.end()
  }

  async prove(options: Partial<ProofOptions> = {}): Promise<Proof> {
    const { replicator } = this
    const proof = await beginProof({
      sourceUrl: this.servers.source.url,
      targetUrl: this.servers.target.url,
      plan: this.plan,
      stream: replicator as unknown as ProofOptions['stream'],
      ...options,
    })
    this.#proofs.push(proof)
    return proof
  }

  until(proof: Proof, probe: () => unknown, what: string, ms = 300_000): Promise<void> {
    return untilProof(proof, probe, what, ms)
  }

  complete(proof: Proof, ms?: number): Promise<void> {
    return this.until(proof, () => isComplete(proof), 'proved', ms)
  }

  quiet(proof: Proof): Promise<void> {
    return this.until(proof, () => isQuiet(proof), 'quiet')
  }

  /** Ends the proof as at the end of a leg, and saves what is proved. */
  handOver(proof: Proof): Promise<void> {
    return endProof(proof)
  }

  /** Ends the proof as if the runner was killed, without saving anything. */
  async kill({ session }: Proof): Promise<void> {
    await session.close()
  }

  async lsn(): Promise<Lsn> {
    return parseLsn((await this.s.query('SELECT pg_current_wal_insert_lsn()::text AS l')).rows[0].l)
  }

  /** Waits until everything committed so far has been applied. */
  async arrived(): Promise<void> {
    const beat = await writeMarker(this.s, '')
    for (const end = performance.now() + 300_000; ; await sleep(10)) {
      if (((await readMarker(this.t, 'public'))?.beat ?? 0) >= beat) return
      if (performance.now() > end) throw new Error('no marker has arrived')
    }
  }

  /** Simulates the cutover: stops writes, drains, and compares before and after the commit. */
  async decide(proof: Proof, sabotage = async () => {}): Promise<Verdict> {
    const full: Record<string, string> = {}
    let red: string | undefined
    const streaming = proof.failure()
    if (streaming) red = errorCode(streaming)
    await proof.session.halt()
    const fenced = await this.lsn()
    await this.arrived()
    await this.#stopBeating()
    await this.replicator.stop()
    await sabotage()
    if (!streaming)
      try {
        const { unproved } = await proof.session.compareRest(fenced, new AbortController().signal)
        Object.assign(full, Object.fromEntries(unproved))
        if ((await this.digest([...unproved.keys()])).length) red = 'verify.different'
        await proof.session.readToDecision()
      } catch (error) {
        red ??= errorCode(error)
      }
    return { red, full, late: await this.digest(this.plan.tables), truth: await this.truth() }
  }

  /** Tables whose row hashes differ between the sides. */
  async digest(names: readonly string[]): Promise<string[]> {
    const [here, there] = await Promise.all([readTables(this.s, 'public'), readTables(this.t, 'public')])
    const pairs = names.map((name) => {
      const [a, b] = [here, there].map((tables) => tables.find((table) => table.name === name))
      if (!a || !b) throw new Error(`no table ${name}`)
      return [a, b] as const
    })
    if (!pairs.length) return []
    const digests = await digestTables(pairs, {
      ...{ sourceUrl: this.servers.source.url, targetUrl: this.servers.target.url, concurrency: 1 },
      ...{ sourceSchema: 'public', targetSchema: 'public', signal: new AbortController().signal },
    })
    return digests.filter((each) => each.missing + each.mismatch + each.extraneous).map(({ name }) => name)
  }

  /** Tables that actually differ, compared value by value. */
  async truth(): Promise<string[]> {
    const found: string[] = []
    for (const table of this.plan.tables) {
      const sql = `SELECT to_jsonb(t)::text AS row FROM ${pg.escapeIdentifier(table)} t ORDER BY 1`
      const [left, right] = await Promise.all([this.s.query(sql), this.t.query(sql)])
      if (JSON.stringify(left.rows) !== JSON.stringify(right.rows)) found.push(table)
    }
    return found
  }

  async #stopBeating(): Promise<void> {
    this.#beating = false
    await this.#beat
  }

  /** Ends streams and proofs. The servers keep running. */
  async end(): Promise<void> {
    await Promise.all(this.#proofs.splice(0).map(({ session }) => session.close()))
    await this.#stopBeating()
    await this.replicator?.stop()
    for (const slot of [SLOT, logSlotOf(SLOT)]) await seizeAndDrop(this.s, slot)
  }

  async stop(): Promise<void> {
    await this.end().catch(() => {})
    await Promise.all(this.#clients.map((client) => client.end().catch(() => {})))
    await this.servers.stop()
  }
}
