import { randomBytes, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { Hashes } from '../../src/masking/hashes.ts'
import { jsonTree } from '../../src/masking/json-paths.ts'
import { looksPersonal } from '../../src/masking/names.ts'
import { fromEnv, jitterMs, keyProblem, parseRules, rulesJsonSchema } from '../../src/masking/rules.ts'
import { domainKeys } from '../../src/masking/session.ts'

const parse = (tables: string, more = '') =>
  parseRules(`version: 1\nkey: env:K\n${more}\ntables:\n${tables}`, 'mask.yml')

describe('rules file', () => {
  it('reads every rule of the example', () => {
    const rules = parseRules(readFileSync('examples/mask.yml', 'utf8'), 'examples/mask.yml')
    expect(rules.tables.customers?.email).toEqual({ use: 'email', domain: 'email' })
    expect(rules.references).toHaveLength(6)
  })

  it.each([
    ['  a: { b: { use: emial } }', /tables\.a\.b\.use: not a rule; `use` is one of null, constant/],
    ['  a: { b: { keep: true } }', /tables\.a\.b\.reason/],
    ['  a: { b: { keep: true, reason: ok fine, use: email } }', /use/],
    ['  a: { b: { use: email, lenght: 3 } }', /lenght/],
    ['  a: { b: email }', /tables\.a\.b: use \{ use/],
    ['  a: { b: { use: date, days: 3 } }', /tables\.a\.b\.by/],
    ['  a: { b: { use: json, paths: { "a..b": { use: text } } } }', /paths/],
    ['  a: { b: { use: json, paths: { "[]a": { use: text } } } }', /paths/],
    ['  a: { b: { use: json, paths: {} } }', /paths: list at least one path/],
  ])('rejects %s and reports the position', (tables, message) => {
    expect(() => parse(tables)).toThrow(message)
  })

  it('rejects invalid YAML, an unknown version, and a key written in the file', () => {
    expect(() => parseRules('a: [', 'x.yml')).toThrow(/x\.yml is not YAML/)
    expect(() => parseRules('version: 2\nkey: env:K\ntables: {}', 'x.yml')).toThrow(/version/)
    expect(() => parseRules('version: 1\nkey: hunter2\ntables: {}', 'x.yml')).toThrow(/key/)
    expect(() => parse('  a: {}', 'safe: { timestamps: { jitter: 0h } }')).toThrow(/jitter: /)
  })

  it('rejects a proposal with open decisions, and reports each position', () => {
    const proposed = `  a:
    b: { keep: true, reason: "TODO: a number; keep it" }
    c: { use: date, days: 60, by: TODO }
    d: { use: json, paths: { TODO: { use: text }, x: { use: constant, value: "TODO: list the members below" }, y: { keep: true, reason: "TODO: a boolean" } } }
    e: { use: sql, expression: "CASE t.e WHEN 'TODO' THEN 'open' END", reviewed-by: someone }
  TODO: { TODO: { keep: true, reason: a list of things to do } }`
    const found = (() => {
      try {
        parse(proposed, 'exclude: { f: TODO }')
      } catch (error) {
        return (error as Error).message
      }
    })()
    expect(found?.match(/- .*(?=: still has a TODO)/g)).toEqual([
      '- tables.a.b.reason',
      '- tables.a.c.by',
      '- tables.a.d.paths.TODO',
      '- tables.a.d.paths.x.value',
      '- tables.a.d.paths.y.reason',
      '- exclude.f',
    ])
  })

  it('provides a JSON Schema for editors, which matches the committed one', () => {
    const schema = JSON.parse(rulesJsonSchema())
    expect(schema.required).toEqual(['version', 'key', 'tables'])
    expect(readFileSync('docs/mask.schema.json', 'utf8')).toBe(rulesJsonSchema())
  })
})

describe('key', () => {
  it.each([
    [undefined, /not set/],
    ['short', /has 5 characters/],
    ['ab'.repeat(20), /too few different/],
    ['change-me-0192837465xyzwvutsrqponm', /guessable words/],
    ['correct horse battery staple correct horse', /spaces/],
    ['correct-horse-battery-staple-correct', /words/],
    ['MyCompanyMaskingKeyForRehearsals', /words/],
    ['molt-actions-rehearsal-2026-november-key', /words/],
    ['qwertyuiopasdfghjklzxcvbnm012345', /sequences/],
    ['aabbccddeeffgghhiijjkkllmmnnooppqq', /sequences/],
    ['987654321098765432109876543210ab', /sequences/],
    ['00000000-0000-4000-8000-00000bcdefgh', /too few different/],
    ['01234567-89ab-cdef-ghij-klmnopqrstuv', /sequences/],
  ])('rejects %s without repeating it', (key, problem) => {
    expect(keyProblem(key)).toMatch(problem)
    if (key) expect(keyProblem(key)).not.toContain(key)
  })

  it('accepts what `openssl rand` and `uuidgen` print', () => {
    expect(keyProblem('9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08')).toBeUndefined()
    for (let n = 0; n < 500; n++)
      for (const key of [
        randomBytes(32).toString('hex'),
        randomBytes(32).toString('base64'),
        randomBytes(48).toString('base64url'),
        `${randomUUID()}${randomUUID()}`,
      ])
        expect(keyProblem(key), key).toBeUndefined()
  })

  it('derives different parameters for each domain and each key', () => {
    const domains = new Map([
      ['email', 0],
      ['name', 1],
    ])
    const [one, other] = [domainKeys('first key', domains), domainKeys('second key', domains)]
    expect([...one.keys()]).toEqual(['molt_actions.k0', 'molt_actions.s0', 'molt_actions.k1', 'molt_actions.s1'])
    expect(one.get('molt_actions.k0')).toMatch(/^[0-9a-f]{64}$/)
    expect(BigInt(one.get('molt_actions.s0') as string)).toBeTypeOf('bigint')
    expect(new Set([...one.values(), ...other.values()]).size).toBe(8)
    expect(domainKeys('first key', domains)).toEqual(one)
  })
})

describe('helpers', () => {
  it('reads durations and environment variables', () => {
    expect([jitterMs('90m'), jitterMs('36h'), jitterMs('3d')]).toEqual([5_400_000, 129_600_000, 259_200_000])
    process.env.MASK_TEST_VALUE = 'x'
    expect(fromEnv('env:MASK_TEST_VALUE')).toBe('x')
    expect(fromEnv('env:MASK_TEST_NOTHING')).toBeUndefined()
  })

  it('computes each hash only once', () => {
    const hashes = new Hashes()
    expect(hashes.strong('a', 't.x')).toBe(hashes.strong('a', 't.x'))
    expect(hashes.strong('b', 't.x')).not.toBe(hashes.strong('a', 't.x'))
    expect(hashes.computed.size).toBe(2)
    expect([...hashes.domains.keys()]).toEqual(['a', 'b'])
  })

  it('rejects JSON paths that overlap', () => {
    const text = { use: 'text' } as const
    expect(() => jsonTree({ a: text, 'a.b': text })).toThrow(/JSON path a has its own rule and others below/)
    expect(() => jsonTree({ 'a[]': text, 'a.b': text })).toThrow(/JSON path a /)
    expect([...(jsonTree({ 'a.b': text, 'a.c[]': text }).members ?? [])]).toHaveLength(1)
  })

  it('recognizes column names that suggest personal data', () => {
    for (const name of ['email', 'contactEmail', 'full_name', 'dob', 'phone', 'ip_address', 'iban', 'passport_no'])
      expect(looksPersonal(name), name).toBeDefined()
    for (const name of ['home_address', 'streetAddress', 'mail', 'contact_no', 'lname', 'f_name', 'born', 'born_on'])
      expect(looksPersonal(name), name).toBeDefined()
    for (const name of [
      'vat_number',
      'taxId',
      'customer_iban',
      'billing_city',
      'shipping_zip',
      'recipient_name',
      'passwd',
    ])
      expect(looksPersonal(name), name).toBeDefined()
    // These names only contain such words as part of another word.
    for (const name of ['avatar_url', 'activated', 'reservation_no', 'private', 'classname', 'cubic_feet', 'footprint'])
      expect(looksPersonal(name), name).toBeUndefined()
    for (const table of ['customers', 'user', 'staff', 'AppUsers', 'blog_authors', 'people'])
      expect(looksPersonal('name', table), table).toBe('a name')
    expect([looksPersonal('name'), looksPersonal('name', 'products')]).toEqual([undefined, undefined])
    for (const name of ['id', 'quantity', 'sku', 'status', 'price', 'shipped_at'])
      expect(looksPersonal(name), name).toBeUndefined()
  })
})
