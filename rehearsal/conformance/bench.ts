// Objects that a conformance run creates: a schema on the target (and on the source), roles, and a migration in the
// ledger. They are removed when the run ends, even on failure.
import { randomBytes } from 'node:crypto'
import { forgetDeferred } from '../../src/destination/deferral.ts'
import { cancelImports } from '../../src/destination/jobs.ts'
import { readTarget } from '../../src/destination/server.ts'
import { createLedger, dropEntry } from '../../src/ledger/ledger.ts'
import { connect, type Database, ident, relationExists, type Side } from '../../src/runtime/database.ts'
import { withLogin } from '../../src/runtime/url.ts'

export class Bench {
  readonly target: string
  readonly source: string | undefined
  readonly db: Database
  /** Name of this run's schema, migration and slot, and prefix of its roles. */
  readonly name: string
  readonly version: readonly [major: number, minor: number]
  readonly #clients: Database[] = []
  readonly #roles: string[] = []
  readonly #hadLedger: boolean

  private constructor(
    given: { target: string; source?: string },
    db: Database,
    version: readonly [number, number],
    hadLedger: boolean,
  ) {
    this.target = given.target
    this.source = given.source
    this.db = db
    this.version = version
    this.#hadLedger = hadLedger
    this.name = `molt_conformance_${randomBytes(4).toString('hex')}`
  }

  static async open(given: { target: string; source?: string }): Promise<Bench> {
    const db = await connect(given.target, 'target')
    try {
      const { version } = await readTarget(db)
      const [, major, minor] = /\bv(\d+)\.(\d+)/.exec(version) ?? []
      if (!version.startsWith('CockroachDB') || !major || !minor)
        throw new Error(`the target is not CockroachDB: ${version}`)
      const bench = new Bench(given, db, [Number(major), Number(minor)], await relationExists(db, LEDGER))
      await db.query(`CREATE SCHEMA ${ident(bench.name)}`)
      await createLedger(db)
      return bench
    } catch (error) {
      await db.end().catch(() => {})
      throw error
    }
  }

  since(major: number, minor: number): boolean {
    return this.version[0] > major || (this.version[0] === major && this.version[1] >= minor)
  }

  /** `"schema"."name"`, qualified with this run's schema. */
  at(name: string): string {
    return `${ident(this.name)}.${ident(name)}`
  }

  /** Opens another connection, closed at the end of the run. */
  async connect(url = this.target, side: Side = 'target'): Promise<Database> {
    const db = await connect(url, side)
    this.#clients.push(db)
    return db
  }

  /** Connects to the source given by `--source`, and creates this run's schema there. */
  async connectSource(): Promise<Database> {
    const source = await this.connect(this.source, 'source')
    await source.query(`CREATE SCHEMA IF NOT EXISTS ${ident(this.name)}`)
    return source
  }

  /** Creates a role that can use this run's schema. @returns its name and its URL of the target */
  async role(suffix: string, options = ''): Promise<{ name: string; url: string }> {
    const name = `${this.name}_${suffix}`
    const password = randomBytes(16).toString('hex')
    this.#roles.push(name)
    await this.db.query(`CREATE ROLE ${ident(name)} WITH LOGIN PASSWORD '${password}' ${options}`)
    await this.db.query(`GRANT USAGE ON SCHEMA ${ident(this.name)} TO ${ident(name)}`)
    return { name, url: withLogin(this.target, name, password) }
  }

  /** Removes everything. @returns sentences about what could not be removed; empty if nothing is left */
  async close(): Promise<string[]> {
    const left: string[] = []
    const step = (what: string, work: () => Promise<unknown>) =>
      work().catch((error) => left.push(`${what}: ${error.message}`))
    await Promise.all(this.#clients.map((client) => client.end().catch(() => {})))
    // An interrupted run may have left a statement running on the old connection.
    await this.db.end().catch(() => {})
    const db = await connect(this.target, 'target')
    try {
      await step('import jobs', () => cancelImports(db, this.name, [IMPORTED], [this.name]))
      await step(`schema ${this.name}`, () => db.query(`DROP SCHEMA IF EXISTS ${ident(this.name)} CASCADE`))
      for (const role of this.#roles) await step(`role ${role}`, () => db.query(`DROP ROLE IF EXISTS ${ident(role)}`))
      await step('ledger', () => this.#forget(db))
    } finally {
      await db.end().catch(() => {})
    }
    if (this.source) await step('source', () => this.#closeSource(this.source as string))
    return left
  }

  async #forget(db: Database): Promise<void> {
    if (await relationExists(db, 'molt_actions.deferred')) await forgetDeferred(db, this.name)
    await dropEntry(db, this.name)
    await db.query('DELETE FROM molt_actions.evidence WHERE migration = $1', [this.name])
    const others = await db.query(`SELECT 1 FROM ${LEDGER} LIMIT 1`)
    if (!this.#hadLedger && !others.rowCount) await db.query('DROP SCHEMA molt_actions CASCADE')
  }

  async #closeSource(url: string): Promise<void> {
    const source = await connect(url, 'source')
    try {
      await source.query(`DROP SCHEMA IF EXISTS ${ident(this.name)} CASCADE`)
    } finally {
      await source.end()
    }
  }
}

/** Name of the table that this run imports into. */
export const IMPORTED = 'imported'
const LEDGER = 'molt_actions.migrations'
