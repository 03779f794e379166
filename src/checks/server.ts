import { ident, literal } from '../runtime/database.ts'
import { number, plural } from '../runtime/progress.ts'
import { slotOwner } from '../source/slot.ts'
import type { Check, Hit } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { sourceSettingChecks } from './settings.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

/** One finding about the source as a whole, if `when` is true. */
function source(when: boolean, what: string, names?: Hit['names']): Hit[] {
  return when ? [{ object: 'source', what, ...(names && { names }) }] : []
}

const major = (facts: Facts) => Math.floor(facts.source.server.version / 10_000)
const begun = (facts: Facts) => ![undefined, 'planned', 'prepared'].includes(facts.settings.phase)
const role = (facts: Facts) => ident(facts.source.role.name)

type Limit = keyof Facts['source']['server']['connectionsFree']

/** How to raise a limit by `more` connections. */
const RAISE: Record<Limit, (facts: Facts, more: number) => string> = {
  server: ({ source: { server } }, more) =>
    `ALTER SYSTEM SET max_connections = ${server.connectionsMax + more}; -- then restart`,
  role: (facts, more) => `ALTER ROLE ${role(facts)} CONNECTION LIMIT -1; -- or ${more} more`,
  database: ({ source: { server } }, more) =>
    `ALTER DATABASE ${ident(server.database)} CONNECTION LIMIT -1; -- or ${more} more`,
}

/** Checks that the source server has what the load and the stream need, and that nothing would interrupt them. */
export const serverChecks: readonly Check[] = [
  {
    id: 'src.version',
    severity: 'block',
    waivable: false,
    title: "The tools support the source's PostgreSQL version",
    protects:
      'MOLT loads from PostgreSQL 11 to 16 and verifies 12 to 16; other versions fail partway or unpredictably.',
    fix: 'Upgrade the source to PostgreSQL 12 to 16, or migrate from a logical replica.',
    *find(facts) {
      const version = major(facts)
      if (version < 11 || version > 16) yield* source(true, `the source is PostgreSQL ${version}`)
      if (version === 11) yield* source(true, 'the source is PostgreSQL 11, which MOLT can load but not verify')
    },
  },
  {
    id: 'src.primary',
    severity: 'block',
    waivable: false,
    title: 'The source is the primary',
    protects:
      "MOLT's slot, the publication and the fence cannot be created on a replica, and writes continue on the primary.",
    fix: 'Set `source` to the primary, where `SELECT pg_is_in_recovery()` returns false.',
    find: (facts) => source(facts.source.server.inRecovery, 'the source is in recovery: it is a replica'),
  },
  {
    id: 'src.wal-level',
    severity: 'block',
    waivable: false,
    title: 'wal_level is logical',
    protects: 'Otherwise, no logical slot can be created, and the load fails at once.',
    fix: "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server (providers: parameter `rds.logical_replication` or `cloudsql.logical_decoding`)",
    find: (facts) => source(facts.source.server.walLevel !== 'logical', `wal_level is ${facts.source.server.walLevel}`),
  },
  {
    id: 'src.slots',
    severity: 'block',
    waivable: false,
    title: 'A replication slot is free',
    protects: 'The load starts by creating a slot, and fails if none is free.',
    fix: 'ALTER SYSTEM SET max_replication_slots = {wanted}; -- then restart; or drop slots that nothing reads: SELECT slot_name FROM pg_replication_slots WHERE NOT active',
    find: ({ source: { server } }) =>
      source(!server.slot && server.slotsFree < 1, `all ${server.slotsMax} replication slots are in use`, {
        wanted: server.slotsMax + 4,
      }),
  },
  {
    id: 'src.slots-verify',
    severity: 'warn',
    title: 'A slot and a WAL sender are free for the change log',
    protects:
      'The rolling proof reads the changed rows through its own slot. Without one, the cutover compares every row during the write pause, so the pause grows with the data.',
    fix: 'ALTER SYSTEM SET max_replication_slots = {slots}; ALTER SYSTEM SET max_wal_senders = {senders}; -- then restart',
    find: ({ source: { server } }) => {
      const [own, reader] = [server.slot ? 0 : 1, server.slot?.active ? 0 : 1]
      return source(
        server.slotsFree < own + 1 || server.sendersFree < reader + 1,
        `${server.slotsFree} replication slots and ${server.sendersFree} WAL senders are free; the load and the rolling proof need 2 of each`,
        { slots: server.slotsMax + 4, senders: server.sendersMax + 4 },
      )
    },
  },
  {
    id: 'src.slots-reserve',
    severity: 'warn',
    title: 'Spare replication slots remain',
    protects: 'Otherwise, a standby or a backup that needs a slot during the migration cannot get one.',
    fix: 'ALTER SYSTEM SET max_replication_slots = {wanted}; -- then restart',
    find: ({ source: { server } }) =>
      source(
        server.slotsFree >= 1 && server.slotsFree < 3,
        `only ${server.slotsFree} of ${server.slotsMax} replication slots are free, and this run takes one`,
        { wanted: server.slotsMax + 4 },
      ),
  },
  {
    id: 'src.senders',
    severity: 'block',
    waivable: false,
    title: 'A WAL sender is free',
    protects: 'The stream reads through a WAL sender, and never starts if none is free.',
    fix: 'ALTER SYSTEM SET max_wal_senders = {wanted}; -- then restart',
    find: ({ source: { server } }) =>
      source(server.sendersFree < 1 && !server.slot?.active, `all ${server.sendersMax} WAL senders are in use`, {
        wanted: server.sendersMax + 4,
      }),
  },
  {
    id: 'src.senders-reserve',
    severity: 'warn',
    title: 'Spare WAL senders remain',
    protects:
      'After a broken connection, the old sender lingers until its timeout, so the new connection needs another sender.',
    fix: 'ALTER SYSTEM SET max_wal_senders = {wanted}; -- then restart',
    find: ({ source: { server } }) =>
      source(
        server.sendersFree >= 1 && server.sendersFree < 3,
        `only ${server.sendersFree} of ${server.sendersMax} WAL senders are free`,
        { wanted: server.sendersMax + 4 },
      ),
  },
  {
    id: 'src.slot-disk',
    severity: 'warn',
    title: 'An unread slot cannot fill the disk',
    protects:
      'With max_slot_wal_keep_size at -1, the source keeps all WAL since the slot was last read. A stream that stops on Friday fills the disk by Sunday.',
    fix: "ALTER SYSTEM SET max_slot_wal_keep_size = '{keep}'; SELECT pg_reload_conf(); -- or watch the disk: {days} GiB a day at the current rate",
    find: ({ source: { server } }) =>
      source(
        server.slotKeepMiB === -1,
        `max_slot_wal_keep_size is unlimited, and the source currently writes ${rate(server.walBytesPerSecond)} of WAL`,
        {
          keep: `${Math.max(10, Math.ceil((server.walBytesPerSecond * 86_400) / GIB))}GB`,
          days: ((server.walBytesPerSecond * 86_400) / GIB).toFixed(1),
        },
      ),
  },
  {
    id: 'src.slot-lost',
    severity: 'warn',
    title: 'The slot survives the load',
    protects:
      'If the source writes more WAL during the load than max_slot_wal_keep_size allows, the slot and the load are lost.',
    fix: "ALTER SYSTEM SET max_slot_wal_keep_size = '{keep}'; SELECT pg_reload_conf();",
    *find(facts) {
      const { server } = facts.source
      const limit = (server.slotKeepMiB ?? -1) * MIB
      const needed = server.walBytesPerSecond * Math.max(3600, 2 * loadSeconds(facts))
      if (limit >= 0 && needed > limit)
        yield* source(
          true,
          `max_slot_wal_keep_size is ${number(limit / MIB)} MiB, but at ${rate(server.walBytesPerSecond)} the source may write ${number(needed / MIB)} MiB of WAL during the load`,
          { keep: `${Math.ceil((needed * 2) / GIB)}GB` },
        )
    },
  },
  {
    id: 'src.sender-timeout',
    severity: 'warn',
    title: 'wal_sender_timeout leaves time for a large transaction',
    protects:
      'The replicator does not respond while it applies a large transaction. If the server then closes the connection, the transaction starts over.',
    fix: "ALTER ROLE {role} SET wal_sender_timeout = '60s';",
    find: (facts) => {
      const { senderTimeoutMs } = facts.source.server
      return source(senderTimeoutMs > 0 && senderTimeoutMs < 30_000, `wal_sender_timeout is ${senderTimeoutMs} ms`, {
        role: role(facts),
      })
    },
  },
  ...sourceSettingChecks,
  {
    id: 'src.long-transaction',
    severity: 'warn',
    title: 'No transaction is open for long',
    protects:
      'Creating the slot waits until every older transaction has ended, and arming the fence waits for those that have written.',
    fix: 'End it, or: SELECT pg_terminate_backend({pid});',
    *find({ source: { transactions }, settings }) {
      for (const each of transactions)
        if (each.kind === 'transaction' && each.ageMs > settings.longTransaction)
          yield {
            object: each.who.split(' (')[0] as string,
            what: `${each.who} has had a transaction open for ${number(each.ageMs / 1000)} s`,
            names: { pid: each.who.split(' ')[1] as string },
          }
    },
  },
  {
    id: 'src.prepared-transaction',
    severity: 'block',
    title: 'No prepared transaction is left behind',
    protects:
      'A prepared transaction does not end with its session, so the slot and the fence would wait for it indefinitely.',
    fix: 'ROLLBACK PREPARED {gid}; -- or COMMIT PREPARED; ask its owner first',
    *find({ source: { transactions } }) {
      for (const each of transactions)
        if (each.kind === 'prepared') {
          const gid = each.who.slice(0, each.who.lastIndexOf(' ('))
          yield {
            object: gid,
            what: `the transaction ${each.who} has been prepared for ${number(each.ageMs / 1000)} s`,
            names: { gid: literal(gid) },
          }
        }
    },
  },
  {
    id: 'src.connections',
    severity: 'block',
    title: 'There are enough connections for the load',
    protects:
      "The load opens a connection for each table and reader. When they reach the limit, the application's connections are refused.",
    fix: 'Lower `table-concurrency` or `export-concurrency`, or: {raise}',
    *find(facts) {
      const { tableConcurrency, exportConcurrency } = facts.settings
      const { server } = facts.source
      const needed = tableConcurrency * exportConcurrency + 6
      const [limit, free] = Object.entries(server.connectionsFree).sort(([, a], [, b]) => a - b)[0] as [Limit, number]
      if (free >= needed) return
      yield* source(
        true,
        `the ${limit}'s limit leaves this role ${plural(Math.max(0, free), 'connection')}, but ${tableConcurrency} tables × ${exportConcurrency} readers and 6 more need ${needed}`,
        { raise: RAISE[limit](facts, needed - free) },
      )
    },
  },
  {
    id: 'src.encoding',
    severity: 'block',
    waivable: false,
    title: 'The database is encoded in UTF8',
    protects: 'CockroachDB stores only UTF-8. Text in another encoding is corrupted or refused.',
    fix: "Dump and restore into a database with ENCODING 'UTF8' and TEMPLATE template0.",
    find: (facts) =>
      source(
        facts.source.server.encoding !== 'UTF8',
        `the source database is encoded in ${facts.source.server.encoding}`,
      ),
  },
  {
    id: 'src.pooler',
    severity: 'block',
    title: 'Connections go directly to one server',
    protects:
      'Behind a transaction pooler or a load balancer, another connection may not find the snapshot. The load then fails or, worse, reads tables at different points in time.',
    fix: "Set `source` to the primary's own host and port (5432, not 6432 or the pooler's endpoint).",
    *find({ source: { connection } }) {
      for (const doubt of connection.doubts) yield { object: 'source', what: doubt }
    },
  },
  {
    id: 'src.slot-exists',
    severity: 'block',
    waivable: false,
    title: 'The slot does not exist yet',
    protects:
      'The load cannot create its slot. If another system uses the existing slot, dropping it breaks that system.',
    fix: "SELECT pg_drop_replication_slot('{slot}'); -- if nothing uses it; otherwise set `slot` to another name",
    *find(facts) {
      const { slot } = facts.source.server
      if (!slot || slot.database !== facts.source.server.database || begun(facts)) return
      const reader = slot.active ? `and PID ${slot.active_pid} is reading it` : 'and no client is reading it'
      yield {
        object: facts.settings.slot,
        what: `the slot ${facts.settings.slot} already exists (${slot.plugin}, database ${slot.database}), ${reader}`,
        names: { slot: facts.settings.slot },
      }
    },
  },
  {
    id: 'src.slot-name',
    severity: 'block',
    waivable: false,
    title: 'No other database on the server has a slot of this name',
    protects:
      'Slot names are unique across the server, so the load cannot create its own slot, and must not touch the existing one.',
    fix: 'Set `slot` to another name, such as {free}.',
    *find({ source: { server }, settings }) {
      const { slot, database } = server
      if (!slot || slot.database === database) return
      yield {
        object: settings.slot,
        what: `the slot ${settings.slot} already exists and belongs to ${slotOwner(slot.database)}`,
        names: { free: `${settings.slot}_${database.toLowerCase().replace(/[^a-z0-9_]/g, '_')}`.slice(0, 56) },
      }
    },
  },
  {
    id: 'src.publication-exists',
    severity: 'block',
    title: 'The publication belongs to this migration',
    protects: 'MOLT drops and recreates a publication with a fixed name, which breaks any other stream that reads it.',
    fix: 'DROP PUBLICATION {publication}; -- if nothing uses it; otherwise move that stream to a publication with another name first',
    *find(facts) {
      const { publication } = facts.source
      if (!publication || facts.settings.phase !== undefined) return
      yield {
        object: facts.settings.publication,
        what: `the publication ${facts.settings.publication} already exists; it belongs to ${publication.owner} and publishes ${publication.allTables ? 'all tables' : plural(publication.tables.length, 'table')}`,
        names: { publication: ident(facts.settings.publication) },
      }
    },
  },
  {
    id: 'src.publication-all',
    severity: 'block',
    title: 'The publication contains only expected tables',
    protects:
      'The stream ignores schemas, so it writes changes to a table in another schema to the target table of the same name.',
    fix: 'DROP PUBLICATION {publication};',
    *find({ source: { publication }, settings }) {
      if (publication?.allTables)
        yield {
          object: settings.publication,
          what: `the publication ${settings.publication} is FOR ALL TABLES`,
          names: { publication: ident(settings.publication) },
        }
    },
  },
  {
    id: 'src.publication-partial',
    severity: 'block',
    title: 'The publication has no row filters or column lists',
    protects: 'A row filter or column list silently omits rows or columns.',
    fix: 'ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE {table};',
    *find({ source: { publication }, settings }) {
      for (const each of publication?.tables ?? [])
        if (each.filtered || each.listed)
          yield {
            object: `${each.schema}.${each.table}`,
            what: `the publication ${settings.publication} publishes ${each.schema}.${each.table} with a ${each.filtered ? 'row filter' : 'column list'}`,
            names: {
              publication: ident(settings.publication),
              table: `${ident(each.schema)}.${ident(each.table)}`,
            },
          }
    },
  },
  {
    id: 'src.publication-truncate',
    severity: 'warn',
    title: 'The publication does not publish TRUNCATE',
    protects: 'One TRUNCATE on the source stops the stream permanently.',
    fix: "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete');",
    *find({ source: { publication }, settings }) {
      if (!publication?.truncate) return
      const name = ident(settings.publication)
      yield {
        object: settings.publication,
        what: `the publication ${settings.publication} publishes TRUNCATE`,
        names: { publication: name },
        apply: { side: 'source', sql: `ALTER PUBLICATION ${name} SET (publish = 'insert, update, delete')` },
      }
    },
  },
  {
    id: 'src.owner',
    severity: 'block',
    waivable: false,
    title: 'No other migration is using the source',
    protects: "MOLT's publication has a fixed name, so a second migration would drop the publication of the first.",
    fix: 'Run `cleanup` with `migration: {migration}` first.',
    *find({ source: { owner }, settings }) {
      if (owner !== undefined && owner !== settings.migration)
        yield { object: 'source', what: `the source is in use by migration \`${owner}\``, names: { migration: owner } }
    },
  },
  {
    id: 'src.masked',
    severity: 'block',
    title: 'A masked source has passed its proof',
    protects:
      'Rows that `mask` wrote but did not prove may contain personal data, and would expose it on the target and in logs.',
    fix: 'Run `mask` again until its proof succeeds.',
    find: ({ source: { masked } }) =>
      source(
        masked !== null && masked !== 'proved',
        masked === 'unknown'
          ? '`mask` wrote to the source, but this role cannot read molt_actions_mask.run, which records whether the proof succeeded'
          : `\`mask\` wrote to the source, but has not proved it (${masked})`,
      ),
  },
  {
    id: 'src.fence',
    severity: 'block',
    waivable: false,
    title: 'The fence is not armed',
    protects: 'Another run has paused writes, and this run would interfere with it.',
    fix: 'Wait until that run has ended, or lift the fence with the action `fence` and `do: lift`.',
    find: ({ source: { fence } }) => source(fence === 'armed', 'the fence on the source is armed'),
  },
  {
    id: 'src.cut-over',
    severity: 'block',
    waivable: false,
    title: 'The source has not been cut over',
    protects: 'A cutover was committed: the source refuses writes permanently, and the target has taken over.',
    fix: 'Do not prepare this source. To go back to it, run `rollback`. When you no longer need a rollback, run `cleanup`.',
    find: ({ source: { fence } }) => source(fence === 'permanent', 'the fence on the source is permanent'),
  },
]

/** Estimated duration of the load in seconds, from its size and the assumed rate. */
export function loadSeconds(facts: Facts): number {
  return loadBytes(facts) / facts.settings.loadRate
}

/** Bytes of the expected tables, including partitions and TOAST. */
export function loadBytes({ source: { relations }, settings }: Facts): number {
  const expected = new Set(settings.tables.map((table) => `${settings.schema}.${table}`))
  return relations
    .filter((each) => expected.has(each.root ?? `${each.schema}.${each.name}`))
    .reduce((sum, each) => sum + each.bytes, 0)
}

function rate(bytesPerSecond: number): string {
  return `${(bytesPerSecond / MIB).toFixed(2)} MiB/s`
}
