import { ident, literal, type Side } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import type { Check, Hit } from './check.ts'
import type { Facts } from './facts/facts.ts'

/** One setting that the tools inherit, and the value they need. */
interface Rule {
  name: string
  wanted: string
  right(value: string): boolean
}

const exactly = (name: string, wanted: string): Rule => ({ name, wanted, right: (value) => value === wanted })
const unlimited = (name: string): Rule => ({ name, wanted: '0', right: (value) => !(Number(value) > 0) })

/** Settings that decide how values are written and read. */
const TEXT_FORMS: readonly Rule[] = [
  { name: 'datestyle', wanted: 'ISO, MDY', right: (value) => value.startsWith('ISO') },
  exactly('intervalstyle', 'postgres'),
  exactly('bytea_output', 'hex'),
  { name: 'extra_float_digits', wanted: '1', right: (value) => Number(value) > 0 },
  exactly('standard_conforming_strings', 'on'),
  { name: 'client_encoding', wanted: 'UTF8', right: (value) => /^utf-?8$/i.test(value) },
  exactly('array_nulls', 'on'),
]
const TIME_ZONES = /^(Etc\/)?(UTC|UCT|GMT|Zulu|Universal|Greenwich)$/i
const TIME_ZONE: Rule = { name: 'timezone', wanted: 'UTC', right: (value) => TIME_ZONES.test(value) }
const READ_WRITE = exactly('default_transaction_read_only', 'off')
const WAITS = ['lock_timeout', 'idle_session_timeout', 'transaction_timeout'].map(unlimited)

const FIX = '{fix}'

/** Checks of the settings that molt and the replicator inherit. This suite's own sessions set theirs explicitly. */
function settingChecks(side: Side): Check[] {
  const prefix = side === 'source' ? 'src' : 'tgt'
  const find =
    (...rules: Rule[]) =>
    (facts: Facts) =>
      rules.flatMap((rule) => hitOf(facts, side, rule))
  return [
    {
      id: `${prefix}.session-settings`,
      severity: 'block',
      waivable: false,
      title: `The tools' sessions on the ${side} use the expected text formats`,
      protects: 'The other side refuses dates, intervals, bytes and numbers in another format, or misreads them.',
      fix: FIX,
      find: find(...TEXT_FORMS),
    },
    {
      id: `${prefix}.time-zone`,
      severity: 'warn',
      title: `The tools use UTC on the ${side}`,
      protects:
        'In other time zones, times from before standard time have offsets with seconds, which some programs cannot read.',
      fix: FIX,
      find: find(TIME_ZONE),
    },
    {
      id: `${prefix}.read-only`,
      severity: 'block',
      waivable: false,
      title: `The tools can write to the ${side}`,
      protects:
        side === 'source'
          ? 'A read-only session can neither create the publication and the slot nor write the heartbeat.'
          : 'A read-only session refuses every row of the load and the stream.',
      fix: FIX,
      find: find(READ_WRITE),
    },
    {
      id: `${prefix}.session-timeouts`,
      severity: 'block',
      title: `No timeout ends the tools' sessions on the ${side}`,
      protects: 'A timeout ends the load or the stream partway, and does so again at every retry.',
      fix: FIX,
      find: find(...WAITS, ...(side === 'target' ? [STATEMENTS, IDLE_TRANSACTIONS] : [])),
    },
    {
      id: `${prefix}.search-path`,
      severity: 'block',
      waivable: false,
      title: `The tools' search path on the ${side} has a schema that exists`,
      protects: 'Otherwise, no unqualified name can be resolved or created.',
      fix: FIX,
      find: (facts) => searchPath(facts, side),
    },
  ]
}

const STATEMENTS = unlimited('statement_timeout')
const IDLE_TRANSACTIONS = unlimited('idle_in_transaction_session_timeout')

export const sourceSettingChecks: readonly Check[] = [
  {
    id: 'src.statement-timeout',
    severity: 'block',
    title: "No timeout ends the role's statements",
    protects: 'A statement_timeout ends the export of a large table partway, and the load with it.',
    fix: FIX,
    find: (facts) => hitOf(facts, 'source', STATEMENTS),
  },
  {
    id: 'src.idle-timeout',
    severity: 'block',
    title: "No timeout ends the role's idle transactions",
    protects:
      'The load keeps its snapshot in a transaction that is idle while other sessions read. If that transaction ends, the load fails.',
    fix: FIX,
    find: (facts) => hitOf(facts, 'source', IDLE_TRANSACTIONS),
  },
  ...settingChecks('source'),
]

export const targetSettingChecks: readonly Check[] = settingChecks('target')

function hitOf(facts: Facts, side: Side, rule: Rule): Hit[] {
  const found = facts[side].tools.settings[rule.name]
  if (!found || rule.right(found.value)) return []
  const value = rule.name.endsWith('timeout') ? `${number(Number(found.value))} ms` : found.value
  return [hit(facts, side, `${rule.name} of the role ${facts[side].role.name} is ${value}`, rule, found.byUrl)]
}

function searchPath(facts: Facts, side: Side): Hit[] {
  if (facts[side].tools.schema !== null) return []
  const { schema, targetSchema } = facts.settings
  const wanted = side === 'source' ? schema : targetSchema
  const rule = { name: 'search_path', wanted, right: () => true }
  return [hit(facts, side, `no schema in the search_path of the role ${facts[side].role.name} exists`, rule, false)]
}

/**
 * Reports a setting. The fix sets it for the role in this database, which overrides the role's, the database's and the
 * server's setting.
 */
function hit(facts: Facts, side: Side, what: string, { name, wanted }: Rule, byUrl: boolean): Hit {
  const { role, server } = facts[side]
  const object = role.name
  if (byUrl)
    return { object, what: `${what}, set in the URL`, names: { fix: `Remove ${name} from \`options\` in the URL.` } }
  const value = name === 'search_path' ? ident(wanted) : literal(wanted)
  const sql = `ALTER ROLE ${ident(role.name)} IN DATABASE ${ident(server.database)} SET ${name} = ${value}`
  return { object, what, names: { fix: `${sql};` }, apply: { side, sql } }
}
