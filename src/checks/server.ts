import { ident, literal } from '../runtime/database.ts'
import { number, plural } from '../runtime/progress.ts'
import { slotOwner } from '../source/slot.ts'
import type { Check, Hit } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { sourceSettingChecks } from './settings.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

/** One hit on the source as a whole, or none. */
function source(when: boolean, what: string, names?: Hit['names']): Hit[] {
  return when ? [{ object: 'source', what, ...(names && { names }) }] : []
}

const major = (facts: Facts) => Math.floor(facts.source.server.version / 10_000)
const begun = (facts: Facts) => ![undefined, 'planned', 'prepared'].includes(facts.settings.phase)
const role = (facts: Facts) => ident(facts.source.role.name)

type Limit = keyof Facts['source']['server']['connectionsFree']

/** Raises the limit that applies to the role; `more` connections are missing. */
const RAISE: Record<Limit, (facts: Facts, more: number) => string> = {
  server: ({ source: { server } }, more) =>
    `ALTER SYSTEM SET max_connections = ${server.connectionsMax + more}; -- then restart`,
  role: (facts, more) => `ALTER ROLE ${role(facts)} CONNECTION LIMIT -1; -- or ${more} more`,
  database: ({ source: { server } }, more) =>
    `ALTER DATABASE ${ident(server.database)} CONNECTION LIMIT -1; -- or ${more} more`,
}

/** The source server: what the load and the stream need, and what would interrupt them. */
export const serverChecks: readonly Check[] = [
  {
    id: 'src.version',
    severity: 'block',
    waivable: false,
    title: 'The source is a PostgreSQL that the tools support',
    protects:
      'MOLT loads from PostgreSQL 11 to 16 and verifies 12 to 16; other versions fail partway or unpredictably.',
    fix: 'Upgrade the source to PostgreSQL 12 to 16, or migrate from a logical replica.',
    *find(facts) {
      const version = major(facts)
      if (version < 11 || version > 16) yield* source(true, `the source is PostgreSQL ${version}`)
      if (version === 11) yield* source(true, 'the source is PostgreSQL 11, which can be loaded, but not verified')
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
    protects: 'Without it, no logical slot can be created, and the load fails at once.',
    fix: "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server (providers: parameter `rds.logical_replication` or `cloudsql.logical_decoding`)",
    find: (facts) => source(facts.source.server.walLevel !== 'logical', `wal_level is ${facts.source.server.walLevel}`),
  },
  {
    id: 'src.slots',
    severity: 'block',
    waivable: false,
    title: 'A replication slot is free',
    protects: 'The load creates a slot first; with none free, it fails.',
    fix: 'ALTER SYSTEM SET max_replication_slots = {wanted}; -- then restart; or drop slots nobody reads: SELECT slot_name FROM pg_replication_slots WHERE NOT active',
    find: ({ source: { server } }) =>
      source(!server.slot && server.slotsFree < 1, `all ${server.slotsMax} replication slots are taken`, {
        wanted: server.slotsMax + 4,
      }),
  },
  {
    id: 'src.slots-verify',
    severity: 'warn',
    title: 'A slot and a WAL sender are free for the change log',
    protects:
      'The rolling proof reads the changed rows through its own slot. Without it, every row is compared in the write pause, which grows with the data.',
    fix: 'ALTER SYSTEM SET max_replication_slots = {slots}; ALTER SYSTEM SET max_wal_senders = {senders}; -- then restart',
    find: ({ source: { server } }) => {
      const [own, reader] = [server.slot ? 0 : 1, server.slot?.active ? 0 : 1]
      return source(
        server.slotsFree < own + 1 || server.sendersFree < reader + 1,
        `${server.slotsFree} replication slots and ${server.sendersFree} WAL senders are free; the load and the rolling proof take 2 of each`,
        { slots: server.slotsMax + 4, senders: server.sendersMax + 4 },
      )
    },
  },
  {
    id: 'src.slots-reserve',
    severity: 'warn',
    title: 'Replication slots remain for others',
    protects: 'A standby or backup that needs a slot during the migration finds none.',
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
    protects: 'The stream reads through a WAL sender; with none free, it never starts.',
    fix: 'ALTER SYSTEM SET max_wal_senders = {wanted}; -- then restart',
    find: ({ source: { server } }) =>
      source(server.sendersFree < 1 && !server.slot?.active, `all ${server.sendersMax} WAL senders are taken`, {
        wanted: server.sendersMax + 4,
      }),
  },
  {
    id: 'src.senders-reserve',
    severity: 'warn',
    title: 'WAL senders remain for others',
    protects:
      'After a broken connection the old sender lingers until its timeout, and the new connection needs another one.',
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
    title: 'A slot that nobody reads cannot fill the disk',
    protects:
      'With max_slot_wal_keep_size at -1 the source keeps all WAL since the slot was last read. A stream that stops on Friday fills the disk by Sunday.',
    fix: "ALTER SYSTEM SET max_slot_wal_keep_size = '{keep}'; SELECT pg_reload_conf(); -- or watch the disk: {days} GiB a day at the rate measured now",
    find: ({ source: { server } }) =>
      source(
        server.slotKeepMiB === -1,
        `max_slot_wal_keep_size is unlimited, and the source writes ${rate(server.walBytesPerSecond)} of WAL now`,
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
      'If the source writes more WAL during the load than max_slot_wal_keep_size holds, the slot and the load are lost.',
    fix: "ALTER SYSTEM SET max_slot_wal_keep_size = '{keep}'; SELECT pg_reload_conf();",
    *find(facts) {
      const { server } = facts.source
      const limit = (server.slotKeepMiB ?? -1) * MIB
      const needed = server.walBytesPerSecond * Math.max(3600, 2 * loadSeconds(facts))
      if (limit >= 0 && needed > limit)
        yield* source(
          true,
          `max_slot_wal_keep_size is ${number(limit / MIB)} MiB; at the ${rate(server.walBytesPerSecond)} measured now, twice the load's estimated time writes ${number(needed / MIB)} MiB`,
          { keep: `${Math.ceil((needed * 2) / GIB)}GB` },
        )
    },
  },
  {
    id: 'src.sender-timeout',
    severity: 'warn',
    title: 'wal_sender_timeout leaves time for a large transaction',
    protects:
      'The replicator does not answer while it applies a large transaction, so the server ends its connection, and it starts over.',
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
    protects: 'The slot is created only after every older transaction has ended; the fence waits for those that write.',
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
    title: 'No prepared transaction is left over',
    protects: 'It has no session that could end, so the slot and the fence would wait for it indefinitely.',
    fix: 'ROLLBACK PREPARED {gid}; -- or COMMIT PREPARED, as its owner decides',
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
    protects: 'The load opens tables × readers at once; the application would then be refused.',
    fix: 'Lower `table-concurrency` or `export-concurrency`, or: {raise}',
    *find(facts) {
      const { tableConcurrency, exportConcurrency } = facts.settings
      const { server } = facts.source
      const needed = tableConcurrency * exportConcurrency + 6
      const [limit, free] = Object.entries(server.connectionsFree).sort(([, a], [, b]) => a - b)[0] as [Limit, number]
      if (free >= needed) return
      yield* source(
        true,
        `the limit of the ${limit} leaves this role ${Math.max(0, free)} free connections; ${tableConcurrency} tables × ${exportConcurrency} readers and 6 more need ${needed}`,
        { raise: RAISE[limit](facts, needed - free) },
      )
    },
  },
  {
    id: 'src.encoding',
    severity: 'block',
    waivable: false,
    title: 'The database is encoded in UTF8',
    protects: 'CockroachDB holds UTF-8 only; text in another encoding arrives broken or not at all.',
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
    title: 'The connection goes to one server process',
    protects:
      'Behind a transaction pooler or a balancer, the snapshot of one connection may not exist on the next: the load fails or, worse, reads two states.',
    fix: "Set `source` to the primary's own host and port (5432, not 6432 or the pooler's endpoint).",
    *find({ source: { connection } }) {
      for (const doubt of connection.doubts) yield { object: 'source', what: doubt }
    },
  },
  {
    id: 'src.slot-exists',
    severity: 'block',
    waivable: false,
    title: 'No slot of that name exists',
    protects: 'The load fails on it. It can also belong to another system, which would lose its place in the stream.',
    fix: "SELECT pg_drop_replication_slot('{slot}'); -- if nobody needs it; else name another one in `slot`",
    *find(facts) {
      const { slot } = facts.source.server
      if (!slot || slot.database !== facts.source.server.database || begun(facts)) return
      const reader = slot.active ? `and PID ${slot.active_pid} reads it now` : 'and no client reads it now'
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
    title: 'No other database of the server has a slot of that name',
    protects:
      'Slot names are unique across the server: the load cannot create its own slot, and must not touch the existing one.',
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
    protects: 'MOLT drops and creates the publication under a fixed name, which breaks any other stream that reads it.',
    fix: 'DROP PUBLICATION {publication}; -- if nobody needs it; else move that stream to a publication of another name first',
    *find(facts) {
      const { publication } = facts.source
      if (!publication || facts.settings.phase !== undefined) return
      yield {
        object: facts.settings.publication,
        what: `the publication ${facts.settings.publication} already exists; it belongs to ${publication.owner} and sends ${publication.allTables ? 'all tables' : plural(publication.tables.length, 'table')}`,
        names: { publication: ident(facts.settings.publication) },
      }
    },
  },
  {
    id: 'src.publication-all',
    severity: 'block',
    title: 'The publication sends expected tables only',
    protects:
      "The stream ignores schemas: a change in another schema’s table is written to the target's table of that name.",
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
    title: 'The publication sends whole tables',
    protects: 'A row filter or column list silently leaves out rows or columns.',
    fix: 'ALTER PUBLICATION {publication} DROP TABLE {table}; ALTER PUBLICATION {publication} ADD TABLE {table};',
    *find({ source: { publication }, settings }) {
      for (const each of publication?.tables ?? [])
        if (each.filtered || each.listed)
          yield {
            object: `${each.schema}.${each.table}`,
            what: `the publication ${settings.publication} sends ${each.schema}.${each.table} through a ${each.filtered ? 'row filter' : 'column list'}`,
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
    title: 'The publication does not send TRUNCATE',
    protects: 'One TRUNCATE on the source stops the stream permanently.',
    fix: "ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete');",
    *find({ source: { publication }, settings }) {
      if (!publication?.truncate) return
      const name = ident(settings.publication)
      yield {
        object: settings.publication,
        what: `the publication ${settings.publication} sends TRUNCATE`,
        names: { publication: name },
        apply: { side: 'source', sql: `ALTER PUBLICATION ${name} SET (publish = 'insert, update, delete')` },
      }
    },
  },
  {
    id: 'src.owner',
    severity: 'block',
    waivable: false,
    title: 'The source belongs to no other migration',
    protects: "MOLT's publication has a fixed name, so a second migration would drop the publication of the first.",
    fix: 'Run `cleanup` with `migration: {migration}` first.',
    *find({ source: { owner }, settings }) {
      if (owner !== undefined && owner !== settings.migration)
        yield { object: 'source', what: `the source belongs to migration \`${owner}\``, names: { migration: owner } }
    },
  },
  {
    id: 'src.masked',
    severity: 'block',
    title: 'The masked copy in the source is proved',
    protects:
      'Rows that `mask` wrote but did not prove can hold personal data, and would expose it on the target and in logs.',
    fix: 'Run `mask` again until its proof succeeds.',
    find: ({ source: { masked } }) =>
      source(
        masked !== null && masked !== 'proved',
        masked === 'unknown'
          ? '`mask` made the source, and this role cannot read molt_actions_mask.run, which says whether it was proved'
          : `\`mask\` made the source and has not proved it (${masked})`,
      ),
  },
  {
    id: 'src.fence',
    severity: 'block',
    waivable: false,
    title: 'The fence is not armed',
    protects: 'Another run has paused writes, and the two would interfere.',
    fix: 'Wait for that run, or lift it with the action `fence` and `do: lift`.',
    find: ({ source: { fence } }) => source(fence === 'armed', 'the fence on the source is armed'),
  },
  {
    id: 'src.cut-over',
    severity: 'block',
    waivable: false,
    title: 'The source was not cut over',
    protects: 'A cutover was committed: the source refuses writes permanently, and the target has taken over.',
    fix: 'This source was cut over, so there is nothing to prepare. To go back, run `rollback`. When you no longer need a rollback, run `cleanup`.',
    find: ({ source: { fence } }) => source(fence === 'permanent', 'the fence on the source is permanent'),
  },
]

/** Estimated seconds of the load, by size and the given rate. */
export function loadSeconds(facts: Facts): number {
  return loadBytes(facts) / facts.settings.loadRate
}

/** Bytes of the expected tables with their partitions, TOAST included. */
export function loadBytes({ source: { relations }, settings }: Facts): number {
  const expected = new Set(settings.tables.map((table) => `${settings.schema}.${table}`))
  return relations
    .filter((each) => expected.has(each.root ?? `${each.schema}.${each.name}`))
    .reduce((sum, each) => sum + each.bytes, 0)
}

function rate(bytesPerSecond: number): string {
  return `${(bytesPerSecond / MIB).toFixed(2)} MiB/s`
}
