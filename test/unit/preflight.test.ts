import { describe, expect, it } from 'vitest'
import { waivers } from '../../src/actions/prepare/spec.ts'
import { type Check, requireWaiversMatch, runChecks, type Waiver } from '../../src/checks/check.ts'
import type { Facts } from '../../src/checks/facts/facts.ts'
import { CHECKS } from '../../src/checks/index.ts'
import { plannedDeferral } from '../../src/destination/deferral.ts'
import {
  compareFingerprints,
  describeChange,
  type Fingerprint,
  packFingerprint,
  unpackFingerprint,
} from '../../src/model/fingerprint.ts'
import { canonicalJson, planHash } from '../../src/model/plan.ts'
import type { Schema } from '../../src/model/schema.ts'

const check = (id: string, objects: string[], more: Partial<Check> = {}): Check => ({
  id,
  severity: 'block',
  title: 't',
  protects: 'p',
  fix: 'DROP {it};',
  find: () => objects.map((object) => ({ object, what: `${object} is wrong`, names: { it: object } })),
  ...more,
})
const facts = {} as Facts
const checks = [
  check('tbl.no-key', ['public.audit_log', 'public.audit']),
  check('typ.money', ['public.orders.total', 'public.orders.tax', 'public.items.price']),
  check('tgt.table', ['public.gone'], { waivable: false }),
]
const waived = (...given: Waiver[]) =>
  runChecks(checks, facts, given)
    .filter((found) => found.waivedBy)
    .map((found) => `${found.object} by ${found.waivedBy}`)

describe('waivers', () => {
  it('are parsed into a check and its objects', () => {
    expect(waivers.schema.parse(' tbl.no-key=audit_log, events ;\ntyp.money = *;')).toEqual([
      { check: 'tbl.no-key', object: 'audit_log' },
      { check: 'tbl.no-key', object: 'events' },
      { check: 'typ.money', object: '*' },
    ])
    for (const wrong of ['tbl.no-key', '*=x', 'tbl.*=x', 'tbl.no-key=', 'true'])
      expect(waivers.schema.safeParse(wrong).success, wrong).toBe(false)
  })

  it('cover an object and everything in it, with or without its schema, but no other object with the same prefix', () => {
    expect(waived({ check: 'tbl.no-key', object: 'audit' })).toEqual(['public.audit by tbl.no-key=audit'])
    expect(waived({ check: 'typ.money', object: 'orders' })).toHaveLength(2)
    expect(waived({ check: 'typ.money', object: 'public.items.price' })).toHaveLength(1)
    expect(waived({ check: 'typ.money', object: '*' })).toHaveLength(3)
    expect(waived({ check: 'tgt.table', object: '*' })).toEqual([])
  })

  it('are an error if they match nothing, or name an unknown check or one that cannot be waived', () => {
    const findings = runChecks(checks, facts)
    const require = (id: string, object: string) => () => requireWaiversMatch(checks, [{ check: id, object }], findings)
    expect(require('tbl.no-key', 'audit_log')).not.toThrow()
    expect(require('tbl.no-key', 'audit_lgo')).toThrow(expect.objectContaining({ code: 'waiver.unused' }))
    expect(require('tbl.nokey', '*')).toThrow(expect.objectContaining({ code: 'waiver.unknown-check' }))
    expect(require('tgt.table', 'gone')).toThrow(expect.objectContaining({ code: 'waiver.not-allowed' }))
  })

  it('rejects a finding without a value for a placeholder in its fix', () => {
    expect(() => runChecks([check('a.b', ['x'], { fix: '{other}' })], facts)).toThrow(/no value for \{other\}/)
    for (const each of CHECKS) expect(each.id).toMatch(/^[a-z]+\.[a-z-]+$/)
  })
})

describe('the plan hash', () => {
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['a', 'b'], slot: 's', publication: 'p' }
  it('is the same for equivalent plans', () => {
    expect(planHash({ ...plan, tables: ['b', 'a'] })).toBe(planHash(plan))
    expect(planHash({ ...plan, defer: 'none', waivers: [] })).toBe(planHash(plan))
    // The hashes must differ, because a rehearsal on the like-server does not count for a plan on a real cluster.
    expect(planHash({ ...plan, likeServer: true })).not.toBe(planHash(plan))
    const decided = { of: 'index' as const, table: 'a', name: 'i', source: '(index "x")', target: null }
    expect(planHash({ ...plan, decided: [decided] })).not.toBe(planHash(plan))
    expect(canonicalJson({ b: [{ d: 1, c: undefined }], a: null })).toBe('{"a":null,"b":[{"d":1}]}')
  })
  it('changes with each setting that affects what is moved and how', () => {
    const hashes = [
      plan,
      { ...plan, tables: ['a'] },
      { ...plan, slot: 't' },
      { ...plan, defer: 'indexes' },
      { ...plan, waivers: ['typ.money=*'] },
      { ...plan, tools: { molt: 'x' } },
      { ...plan, targetSchema: 'shop' },
    ].map(planHash)
    expect(new Set(hashes).size).toBe(hashes.length)
  })
})

describe('fingerprints', () => {
  const before: Fingerprint = { 'table a': 'table', 'column a.x': 'integer', 'column a.y.z': 'text', 'enum e': 'b, c' }
  it('show which objects have changed, and how', () => {
    const after = { ...before, 'column a.x': 'bigint', 'enum e': 'c, b', 'index a.i': 'CREATE INDEX i' }
    const changes = compareFingerprints('source', before, after)
    expect(changes.map(describeChange)).toEqual([
      'column a.x has changed on the source, from "integer" to "bigint"',
      'enum e has changed on the source, from "b, c" to "c, b"',
      'index a.i is new on the source: CREATE INDEX i',
    ])
    expect(compareFingerprints('target', before, before)).toEqual([])
  })
  it('list a missing table once, without its columns', () => {
    const changes = compareFingerprints('target', before, { 'enum e': 'b, c' })
    expect(changes.map((each) => each.object)).toEqual(['table a'])
  })
  it('are stored completely', () => {
    expect(unpackFingerprint(packFingerprint(before))).toEqual(before)
    expect(packFingerprint(before).sha256).toBe(packFingerprint({ ...before }).sha256)
  })
})

it("uses CockroachDB's syntax to drop a unique index after its foreign keys, and ignores shard columns", () => {
  const same = {
    schema: 'public',
    deferrable: false,
    validated: true,
    index: null,
    definition: '',
    condition: null,
    references: null,
  }
  const schema: Schema = {
    name: 'public',
    tables: [],
    sequences: [],
    indexes: [
      {
        schema: 'public',
        table: 'a',
        name: 'a_x_key',
        unique: true,
        primary: false,
        valid: true,
        partial: false,
        columns: ['x'],
        method: 'prefix',
        definition: 'CREATE UNIQUE INDEX a_x_key ON shop.public.a USING btree (x ASC)',
      },
    ],
    constraints: [
      { ...same, table: 'a', name: 'a_x_key', kind: 'u', columns: ['x'], index: 'a_x_key' },
      {
        ...same,
        schema: 'far',
        table: 'b',
        name: 'b_x',
        kind: 'f',
        columns: ['x'],
        references: { schema: 'public', table: 'a', columns: ['x'], onUpdate: 'a', onDelete: 'c', match: 's' },
      },
      {
        ...same,
        table: 'a',
        name: 'check_crdb_internal_x_shard_16',
        kind: 'c',
        columns: [],
        definition: '',
        condition: 'true',
      },
      { ...same, table: 'a', name: 'twice', kind: 'c', columns: [] },
    ],
  }
  const { objects } = plannedDeferral(schema, ['a'], { indexes: true, constraints: false }, true)
  expect(objects.map(({ kind, create, drop }) => ({ kind, create, drop }))).toEqual([
    {
      kind: 'unique',
      create: 'CREATE UNIQUE INDEX a_x_key ON shop.public.a USING btree (x ASC)',
      drop: 'DROP INDEX IF EXISTS "public"."a"@"a_x_key" CASCADE',
    },
    {
      kind: 'foreign-key',
      create:
        'ALTER TABLE "far"."b" ADD CONSTRAINT "b_x" FOREIGN KEY ("x") REFERENCES "public"."a" ("x") ON DELETE CASCADE NOT VALID',
      drop: 'ALTER TABLE "far"."b" DROP CONSTRAINT IF EXISTS "b_x"',
    },
  ])
  // Two CHECK constraints with the same name but different conditions cannot be distinguished, so neither is dropped.
  expect(plannedDeferral(schema, ['a'], { indexes: false, constraints: true }, true).kept).toEqual(['public.a.twice'])
})
