import { describe, expect, test } from 'vitest'
import { addSecretUrl, redact } from '../../src/runtime/secrets.ts'
import { keyHash, moltScrubber, scrubReplicator, scrubText } from '../../src/tools/scrub.ts'

/** Values that must not be left anywhere. */
const CANARIES = ['alice@example.com', '4111-1111', 'Zoë "Q" O\'Neil)', '99887766']

describe('scrubText', () => {
  test("masks the action's passwords in every form that a program may print", () => {
    addSecretUrl('postgresql://mover:Zq7%2Fs3cr3t@h/d')
    const said = 'cannot dial postgresql://mover:Zq7%2Fs3cr3t@h/d with h:5432:d:mover:Zq7/s3cr3t and Zq7%2Fs3cr3t'
    expect(scrubText(said)).toBe('cannot dial postgresql://mover:***@h/d with h:5432:d:mover:*** and ***')
  })

  test.each([
    ['Key (email)=(alice@example.com) already exists.', 'Key (email)=(…) already exists.'],
    ['Key (a, lower(b))=(4111-1111, x)y) already exists.', 'Key (a, lower(b))=(…) already exists.'],
    ['Key (pid)=(99887766) is not present in table "parent".', 'Key (pid)=(…) is not present in table "parent".'],
    ['duplicate key value (id)=(99887766) violates', 'duplicate key value (id)=(…)'],
    ['Failing row contains (99887766, alice@example.com, (x)).', 'Failing row contains (…)'],
    [
      'invalid input syntax for type numeric: "4111-1111" (SQLSTATE 22P02)',
      'invalid input syntax for type numeric: … (SQLSTATE 22P02)',
    ],
    ['invalid input value for enum order_status: "alice@example.com"', 'invalid input value for enum order_status: …'],
    ['value "99887766" is out of range for type integer', 'value … is out of range for type integer'],
    ['value alice@example.com (string) of type OID 16884 not yet', 'value … (string) of type OID 16884 not yet'],
    ['schema drift: key ["99887766","v2"] has no column', 'schema drift: key […] has no column'],
    ['could not parse "alice@example.com" as type int', 'could not parse …'],
    ['COPY customers, line 3, column email: "alice@example.com"', 'COPY customers, line 3, column email: …'],
    [
      'duplicate key value violates unique constraint "orders_pkey" (SQLSTATE 23505)',
      'duplicate key value violates unique constraint "orders_pkey" (SQLSTATE 23505)',
    ],
    [
      '"shop"."public"."b": schema drift detected in "shop"."public"."b": unexpected columns: v',
      '"shop"."public"."b": schema drift detected in "shop"."public"."b": unexpected columns: v',
    ],
    ['a new kind of message about "alice@example.com"', 'a new kind of message about "…"'],
    ['a new kind of message about alice@example.com, 4111 1111 1111 1111', 'a new kind of message about …, …'],
    ['json: cannot unmarshal number 99887766e300 into Go value', 'json: cannot unmarshal …'],
    [
      'exec failed: ERROR: boom 99887766 (SQLSTATE P0001)',
      'exec failed: ERROR: (an error raised by a function in the database) (SQLSTATE P0001)',
    ],
    ["a new kind of message about 'alice@example.com'", "a new kind of message about '…'"],
    ['null value in column "email" of relation "customers"', 'null value in column "email" of relation "customers"'],
    ['replication slot "molt_slot" is active for PID 7', 'replication slot "molt_slot" is active for PID 7'],
    ['unknown flag: --rows', 'unknown flag: --rows'],
  ])('%s', (said, kept) => expect(scrubText(said)).toBe(kept))
})

describe('molt', () => {
  const scrub = moltScrubber(keyHash('a secret'))
  const mismatch = {
    level: 'warn',
    type: 'data',
    table_schema: 'public',
    table_name: 'customers',
    source_values: { email: 'alice@example.com', phone: '4111-1111' },
    target_values: { email: 'NULL', phone: 'Zoë "Q" O\'Neil)' },
    primary_key: ['99887766'],
    time: '2026-01-02T03:04:05Z',
    message: 'mismatching row value',
  }

  test('replaces a row with a hash and its column names', () => {
    const line = scrub(JSON.stringify(mismatch))
    for (const canary of CANARIES) expect(line).not.toContain(canary)
    expect(JSON.parse(line)).toEqual({
      level: 'warn',
      type: 'data',
      table_schema: 'public',
      table_name: 'customers',
      time: '2026-01-02T03:04:05Z',
      message: 'mismatching row value',
      key_hash: expect.stringMatching(/^[0-9a-f]{16}$/),
      columns: ['email', 'phone'],
    })
  })

  test('the hash distinguishes keys, and depends on the secret', () => {
    const other = scrub(JSON.stringify({ ...mismatch, primary_key: ['5'] }))
    expect(JSON.parse(other).key_hash).not.toBe(JSON.parse(scrub(JSON.stringify(mismatch))).key_hash)
    expect(keyHash('x')('t', ['1'])).not.toBe(keyHash('y')('t', ['1']))
    expect(keyHash('x')('t', ['1'])).toBe(keyHash('x')('t', [1]))
  })

  test('leaves no values from a row event, however it is truncated or malformed', () => {
    const whole = JSON.stringify(mismatch)
    for (let at = 1; at < whole.length; at++)
      for (const part of [whole.slice(0, at), whole.slice(at)])
        for (const canary of CANARIES.slice(0, 2)) {
          const left = scrub(part)
          // A fragment that starts inside a value contains only the rest of it.
          if (part.includes(canary)) expect(left, part).not.toContain(canary)
        }
  })

  test('removes unknown fields that a later version may add', () => {
    const line = scrub(JSON.stringify({ level: 'info', message: 'sampled row', row: 'alice@example.com', took_ms: 4 }))
    expect(JSON.parse(line)).toEqual({ level: 'info', message: 'sampled row', row: '…', took_ms: 4 })
  })

  test('removes values from the messages of other events', () => {
    const line = scrub(
      JSON.stringify({
        level: 'info',
        table: 'public.orders',
        message: 'token for Key (id)=(99887766) already exists.',
      }),
    )
    expect(JSON.parse(line).message).toBe('token for Key (id)=(…) already exists.')
  })

  test('leaves progress and summary events unchanged', () => {
    const line =
      '{"level":"info","type":"summary","fetch_id":"5b1f0a4e-0000-4000-8000-000000000001","num_tables":1,"tables":["public.Orders"],"cdc_cursor":"0/1A2B3C4","time":"2026-01-02T03:04:05Z","message":"fetch complete"}'
    expect(scrub(line)).toBe(line)
  })
})

describe('replicator', () => {
  test('removes values from a database error in a warning', () => {
    const line =
      'time="Jan 02 03:04:05" level=warning msg="error while copying messages; will retry" detail="alice@example.com" error="\\"shop\\".\\"public\\".\\"uniq\\": ERROR: duplicate key value violates unique constraint \\"uniq_code_key\\" (SQLSTATE 23505)" sql="{\\n \\"code\\": \\"23505\\",\\n \\"detail\\": \\"Key (code)=(99887766) already exists.\\",\\n \\"constraintName\\": \\"uniq_code_key\\",\\n \\"message\\": \\"duplicate key\\"\\n}\\n"'
    const clean = scrubReplicator(line)
    for (const canary of CANARIES) expect(clean).not.toContain(canary)
    expect(clean).toContain('msg="error while copying messages; will retry"')
    expect(clean).toContain('\\"uniq_code_key\\" (SQLSTATE 23505)')
    expect(clean).toContain('\\"code\\":\\"23505\\"')
  })

  test('handles the newer text format, the JSON format, and a truncated line', () => {
    const text =
      'WARNING [2026-01-02T03:04:05-05:00] warning during tryCommit: ERROR: Key (code)=(99887766) already exists.'
    expect(scrubReplicator(text)).toBe(text.replace('99887766', '…'))
    expect(scrubReplicator('{"message":"Failing row contains (99887766).","severity":"WARNING"}')).toBe(
      '{"message":"Failing row contains (…)","severity":"WARNING"}',
    )
    expect(scrubReplicator('time="Jan 02 03:04:05" level=warning msg="x" error="Failing row contains (99887766')).toBe(
      'time="Jan 02 03:04:05" level=warning msg="x" error="…"',
    )
  })

  test('leaves ordinary lines unchanged', () => {
    const line =
      'time="Jan 02 03:04:05" level=debug msg="upserted rows" conflicts=0 duration=1.9ms proposed=1 target="\\"shop\\".\\"public\\".\\"a\\"" upserted=1'
    expect(scrubReplicator(line)).toBe(line)
  })
})

describe('errors of IMPORT INTO', () => {
  const file = 's3://loads/p/public.orders/shard_01_part_00000001.tar.gz?AWS_ACCESS_KEY_ID=AK&AWS_SECRET_ACCESS_KEY=SK'
  test.each([
    [
      `ERROR: ${file}: error parsing row 2: null value in column "qty" violates not-null constraint (row: 2,,canary,) (SQLSTATE 23502)`,
      'ERROR: s3://…/shard_01_part_00000001.tar.gz: error parsing row 2: null value in column "qty" violates not-null constraint (row: …) (SQLSTATE 23502)',
    ],
    [
      `ERROR: ${file}: error parsing row 1: parse "qty" as INT8: could not parse "canary" as type int: strconv.ParseInt: parsing "canary": invalid syntax (row: 1,canary) (SQLSTATE 22P02)`,
      'ERROR: s3://…/shard_01_part_00000001.tar.gz: error parsing row 1: parse column "qty" as INT8: … (row: …) (SQLSTATE 22P02)',
    ],
    [
      'ERROR: ingested key collides with an existing one: /Table/106/2/"canary"/0 (SQLSTATE XXUUU)',
      'ERROR: ingested key collides with an existing one: … (SQLSTATE XXUUU)',
    ],
  ])('keep the reason and the column, but no value or key: %#', (said, expected) => {
    expect(scrubText(said)).toBe(expected)
  })
})

test.each([
  ['a long word', 'x'.repeat(250_000)],
  ['a long number', '7'.repeat(250_000)],
  ['spaces', ' '.repeat(250_000)],
])('handles a line with %s in less than a second', (_, value) => {
  const began = performance.now()
  scrubReplicator(`time="x" level=warning msg="will retry" error="key [${value}"`)
  for (let at = 0; at < 16_000 * 4; at += 16_000) scrubText(`${value.slice(0, 16_000)} is not found`)
  redact(value)
  expect(performance.now() - began).toBeLessThan(1_000)
})
