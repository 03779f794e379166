import { Readable } from 'node:stream'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Framer } from '../../rehearsal/cockroach/wire.ts'
import { parseSchemaName, statementsFor, type TargetSchema, type Transaction } from '../../rehearsal/molt/apply.ts'
import { tableFilter } from '../../rehearsal/molt/catalog.ts'
import { type FlagSpec, parseDuration, parseFlags } from '../../rehearsal/molt/flags.ts'
import { clockText, rfc3339 } from '../../rehearsal/molt/molt-log.ts'
import { literal, parseEndpoint } from '../../rehearsal/molt/pg.ts'
import { goDuration } from '../../rehearsal/molt/replicator-log.ts'
import { LineReader } from '../../rehearsal/molt/verify.ts'
import { decodeMessage, formatLsn, parseLsn, UNCHANGED } from '../../src/source/pgoutput.ts'

const SPECS: FlagSpec[] = [
  ['name', 'string', 'x', ''],
  ['rows', 'bool', 'true', ''],
  ['count', 'int', '4', ''],
  ['wait', 'duration', '5s', ''],
  ['verbose', 'count', '0', ''],
]

describe('flags', () => {
  it('parses flags in every form that pflag accepts', () => {
    const { flags, args, help } = parseFlags(
      ['--name', '-a', '--rows=false', 'word', '--count=-3', '-vv', '-v', '--wait', '1m0.5s', '--', '--name'],
      SPECS,
    )
    expect([
      flags.str('name'),
      flags.bool('rows'),
      flags.int('count'),
      flags.int('verbose'),
      flags.duration('wait'),
    ]).toEqual(['-a', false, -3, 3, 60_500])
    expect([args, help]).toEqual([['word', '--name'], false])
    expect(parseFlags([], SPECS).flags.duration('wait')).toBe(5000)
  })

  it.each([
    [['--nope'], 'unknown flag: --nope'],
    [['--nope=1'], 'unknown flag: --nope'],
    [['-q'], "unknown shorthand flag: 'q' in -q"],
    [['--name'], 'flag needs an argument: --name'],
    [
      ['--rows=maybe'],
      'invalid argument "maybe" for "--rows" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
    ],
    [['--count', 'x'], 'invalid argument "x" for "--count" flag: strconv.ParseInt: parsing "x": invalid syntax'],
    [['--wait', '5'], 'invalid argument "5" for "--wait" flag: time: invalid duration "5"'],
  ])('refuses %j', (argv, message) => {
    expect(() => parseFlags(argv, SPECS)).toThrow(message)
  })

  it('parses durations as Go does', () => {
    expect(['200ms', '1h2m3s', '1.5s', '-2m', '0', '10µs'].map(parseDuration)).toEqual([
      200, 3_723_000, 1500, -120_000, 0, 0.01,
    ])
    expect(['', '5', 's', '5d', '1s 2s'].map(parseDuration)).toEqual(Array(5).fill(Number.NaN))
  })
})

describe('connection strings', () => {
  it('decodes percent-encoded passwords, passes options on, and sets the text form of values', () => {
    const { config, database, tls } = parseEndpoint(
      'postgres://u%40x:p%3A%2F%25%23@[::1]:5433/d%20b?sslmode=require&options=-c%20a%3Db&statement_timeout=5&application_name=me',
      'app',
    )
    expect(config).toMatchObject({
      user: 'u@x',
      password: 'p:/%#',
      host: '::1',
      port: 5433,
      database: 'd b',
      application_name: 'me',
    })
    expect(config.options).toMatch(/^-c a=b -c DateStyle=ISO .*-c statement_timeout=5$/)
    expect([database, tls]).toEqual(['d b', [{ cert: undefined, key: undefined, rejectUnauthorized: false }]])
  })

  it.each([
    ['disable', 1, false],
    ['prefer', 2, { rejectUnauthorized: false }],
    ['verify-full', 1, { ca: undefined }],
  ])('understands sslmode=%s', (mode, attempts, first) => {
    const { tls } = parseEndpoint(`postgres://u@h/d?sslmode=${mode}`, 'app')
    expect(tls).toHaveLength(attempts)
    if (typeof first === 'object') expect(tls[0]).toMatchObject(first)
    else expect(tls[0]).toBe(first)
  })

  it('hides the password of a URL that it cannot parse', () => {
    for (const url of ['postgres://u:se/cret@h/d', 'mysql://u:secret@h/d', 'postgres://u:secret%zz@h/d']) {
      expect(() => parseEndpoint(url, 'app')).toThrow(/^cannot parse/)
      expect(() => parseEndpoint(url, 'app')).not.toThrow(/se\/?cret/)
    }
  })
})

describe('pgoutput', () => {
  const text = (s: string) => Buffer.from(`${s}\0`)
  const u16 = (n: number) => Buffer.from([n >> 8, n & 255])
  const u32 = (n: number) => Buffer.from([n >>> 24, (n >> 16) & 255, (n >> 8) & 255, n & 255])
  const value = (s: string) => Buffer.concat([Buffer.from('t'), u32(Buffer.byteLength(s)), Buffer.from(s)])

  it('decodes relations and tuples as text', () => {
    const column = (name: string, key: number) =>
      Buffer.concat([Buffer.from([key]), text(name), u32(25), u32(0xffffffff)])
    const relation = Buffer.concat([
      Buffer.from('R'),
      u32(7),
      text('public'),
      text('T'),
      Buffer.from('d'),
      u16(2),
      column('id', 1),
      column('v', 0),
    ])
    expect(decodeMessage(relation)).toEqual({
      kind: 'relation',
      relation: {
        id: 7,
        schema: 'public',
        name: 'T',
        columns: [
          { name: 'id', key: true },
          { name: 'v', key: false },
        ],
      },
    })
    const tuple = (...values: Buffer[]) => Buffer.concat([u16(values.length), ...values])
    const update = Buffer.concat([
      Buffer.from('U'),
      u32(7),
      Buffer.from('K'),
      tuple(value('0'), Buffer.from('n')),
      Buffer.from('N'),
      tuple(value('1é'), Buffer.from('u')),
    ])
    expect(decodeMessage(update)).toEqual({ kind: 'update', relation: 7, values: ['1é', UNCHANGED], old: ['0', null] })
    const gone = Buffer.concat([Buffer.from('D'), u32(7), Buffer.from('K'), tuple(value('1'), Buffer.from('n'))])
    expect(decodeMessage(gone)).toEqual({ kind: 'delete', relation: 7, values: ['1', null] })
  })

  it('reads and writes positions', () => {
    expect([parseLsn('16/B374D848'), formatLsn(0x16b374d848n), parseLsn('rubbish')]).toEqual([
      0x16b374d848n,
      '16/B374D848',
      0n,
    ])
  })
})

describe('statements for a transaction', () => {
  const table = (name: string, ...columns: string[]) => ({
    name,
    columns: new Map(columns.map((c) => [c.toLowerCase(), { name: c, generated: false }])),
    primaryKey: ['id'],
  })
  const schema: TargetSchema = {
    tables: new Map([
      ['parent', table('parent', 'id')],
      ['child', table('child', 'id', 'V')],
    ]),
    order: ['parent', 'child'],
  }
  const target = { database: 'd', schema: 's' }
  const relation = {
    id: 1,
    schema: 's',
    name: 'child',
    columns: [
      { name: 'id', key: true },
      { name: 'v', key: false },
    ],
  }
  const keys = { id: 2, schema: 's', name: 'parent', columns: [{ name: 'id', key: true }] }
  const tx = (tables: Transaction['tables']): Transaction => ({ commitLsn: 1n, commitTime: 0, tables })
  const row = (id: string, v: string | null) => ({ delete: false, key: [id], values: [id, v], relation })

  it("orders parents first, keeps the last change of a key, and deletes before it upserts, with the target's names", () => {
    const statements = statementsFor(
      tx(
        new Map([
          ['child', [row('1', 'a'), { ...row('2', null), delete: true }, row('1', "o'\\n"), row('3', null)]],
          ['parent', [{ delete: false, key: ['9'], values: ['9'], relation: keys }]],
        ]),
      ),
      schema,
      target,
    )
    expect(statements.map((s) => [s.proposed, s.sql])).toEqual([
      [1, `INSERT INTO "s"."parent" ("id") VALUES ('9') ON CONFLICT DO NOTHING`],
      [1, `DELETE FROM "s"."child" WHERE ("id") IN (('2'))`],
      [
        2,
        `INSERT INTO "s"."child" ("id","V") VALUES ('1', E'o''\\\\n'),('3',NULL) ON CONFLICT ("id") DO UPDATE SET "V"=excluded."V"`,
      ],
    ])
  })

  it('splits large tables into several statements', () => {
    const rows = Array.from({ length: 2500 }, (_, i) => row(String(i), 'x'))
    expect(statementsFor(tx(new Map([['child', rows]])), schema, target).map((s) => s.proposed)).toEqual([
      1000, 1000, 500,
    ])
  })

  it('names the columns and tables that do not match', () => {
    const drifted = { ...relation, columns: [...relation.columns, { name: 'new', key: false }] }
    const of = (mutation: object) => () =>
      statementsFor(tx(new Map([['child', [mutation as ReturnType<typeof row>]]])), schema, target)
    expect(of({ ...row('1', 'a'), relation: drifted })).toThrow(
      '"d"."s"."child": schema drift detected in "d"."s"."child" at payload object offset 0: unexpected columns: new',
    )
    expect(of({ ...row('1', 'a'), delete: true, key: ['1', 'a'] })).toThrow(
      'inconsistent number of key columns: received 2 expect 1',
    )
    expect(() => statementsFor(tx(new Map([['gone', []]])), schema, target)).toThrow(
      'update sent to unknown tables: d.s.gone',
    )
  })
})

describe('small texts', () => {
  it('reads schema names', () => {
    expect(['db.public', '"My Db"."s.x"', 'db'].map(parseSchemaName)).toEqual([
      { database: 'db', schema: 'public' },
      { database: 'My Db', schema: 's.x' },
      { database: 'db', schema: 'public' },
    ])
    for (const bad of ['', 'a.b.c', 'a.', '"a']) expect(() => parseSchemaName(bad)).toThrow()
  })

  it('quotes any literal', () => {
    expect([literal(null), literal("it's"), literal('a\\'), literal('')]).toEqual([
      'NULL',
      "'it''s'",
      " E'a\\\\'",
      "''",
    ])
  })

  it('supports POSIX classes, and refuses escapes that POSIX lacks', () => {
    const of = (table: string) => tableFilter({ schema: '.*', table, exclusion: '' })
    expect(of('^[[:upper:]][a-z]+$')({ schema: 'public', table: 'Orders' })).toBe(true)
    expect(of('^[[:upper:]][a-z]+$')({ schema: 'public', table: 'orders' })).toBe(false)
    expect(of('^(back\\\\slash|a\\(\\?)$')({ schema: 'public', table: 'back\\slash' })).toBe(true)
    for (const bad of ['\\d', '\\\\\\d', '(?i)x', '(', '*a', '[a'])
      expect(() => of(bad)).toThrow('error parsing regexp')
  })

  it('formats times and durations as the tools do', () => {
    expect([clockText(6752.8), clockText(3_723_000), goDuration(1.9), goDuration(2500), goDuration(0.5)]).toEqual([
      '000h 00m 06s',
      '001h 02m 03s',
      '1.9ms',
      '2.5s',
      '500µs',
    ])
    expect(rfc3339(new Date('2026-01-02T03:04:05.678Z'))).toMatch(/^2026-01-0\dT\d\d:\d\d:05(Z|[+-]\d\d:\d\d)$/)
  })
})

describe('large rows', () => {
  const CHUNKS = 64
  afterEach(() => vi.restoreAllMocks())

  it('joins a wire protocol message only once, from any number of chunks', () => {
    const size = CHUNKS * 1024
    const whole = Buffer.concat([Buffer.from('Z\0\0\0\x05I', 'latin1'), Buffer.alloc(size + 5, 'x')])
    whole.write('D', 6, 'latin1')
    whole.writeInt32BE(size + 4, 7)
    const joined = vi.spyOn(Buffer, 'concat')
    const framer = new Framer()
    const frames = []
    for (let at = 0; at < whole.length; at += 1000) frames.push(...framer.push(whole.subarray(at, at + 1000)))
    expect(frames.map(({ type, body }) => [type, body.length])).toEqual([
      ['Z', 1],
      ['D', size],
    ])
    expect(joined).toHaveBeenCalledTimes(1)
  })

  it('joins a message whose length field spans two chunks', () => {
    const framer = new Framer()
    const bytes = [...Buffer.from('Q\0\0\0\x06ab', 'latin1')]
    const frames = bytes.flatMap((byte) => framer.push(Buffer.from([byte])))
    expect(frames.map(({ type, body }) => [type, String(body)])).toEqual([['Q', 'ab']])
  })

  it('joins a COPY line only once, and passes short lines on one by one', async () => {
    const long = 'y'.repeat(CHUNKS * 1000)
    const text = `a\nb\n${long}\nc\n`
    const chunks = Array.from({ length: CHUNKS + 1 }, (_, n) => Buffer.from(text.slice(n * 1000, (n + 1) * 1000)))
    const reader = new LineReader(Readable.from(chunks))
    const joined = vi.spyOn(Buffer, 'concat')
    const lines = []
    for (let line = await reader.next(); line; line = await reader.next()) lines.push(String(line))
    expect(lines).toEqual(['a', 'b', long, 'c'])
    expect(joined.mock.calls.length).toBeLessThan(4)
  })
})
