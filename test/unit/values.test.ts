import { describe, expect, test } from 'vitest'
import { plainForm, writtenAlike } from '../../src/model/values.ts'

/** Pairs of texts that mean the same value on the two servers. */
const SAME: [type: string, here: string, there: string][] = [
  ['numeric', '1.50', '1.5'],
  ['numeric', '0.00000000000000000001', '1E-20'],
  ['numeric(20,10)', '0.0000000000', '0E-10'],
  ['numeric', '-120', '-1.2E+2'],
  ['numeric', 'NaN', 'NaN'],
  ['double precision', '1000000', '1e+06'],
  ['real', '0.1', '0.10000000149011612'],
  ['jsonb', '{"b": 1.10, "aa": [1, {"y": null, "x": "é"}]}', '{"aa":[1.0,{"x":"\\u00e9","y":null}],"b":1.1}'],
  ['text[]', '{a,"b c",NULL,"NULL",""}', '{"a","b c",NULL,"NULL",""}'],
  ['numeric[]', '{1.0,2.50}', '{1,2.5}'],
  ['character(5)', 'ab   ', 'ab'],
  ['interval', '1 year 2 mons -3 days +04:05:06.5', '14 mons -3 days 04:05:06.500000'],
  ['interval day to second(3)', '-00:00:01', '-0:00:01'],
  ['interval[]', '{"1 day",NULL}', '{"1 days",NULL}'],
  ['inet', '10.0.0.1/32', '10.0.0.1'],
  ['inet', '2001:0db8::0:1/64', '2001:db8::1/64'],
  ['inet', '::ffff:1.2.3.4', '::ffff:102:304/128'],
  ['time with time zone', '12:00:00+02', '12:00:00.000+02:00:00'],
]

/** Values that differ and must never count as equal. */
const APART: [type: string, here: string, there: string][] = [
  ['numeric', '0.42857142857142857143', '0.05963654709723753911'],
  ['numeric', '99999999999999999999', '99999999999999999998'],
  ['numeric', '10', '1'],
  ['numeric', '-1', '1'],
  ['double precision', '1.0000000000000002', '1'],
  ['jsonb', '{"a": 12345678901234567890}', '{"a": 12345678901234567891}'],
  ['jsonb', '{"a": 1}', '{"a": "1"}'],
  ['jsonb', '{"a": "n1e0"}', '{"a": 1}'],
  ['jsonb', '{"a": "1.10"}', '{"a": "1.1"}'],
  ['jsonb', '[1, 2]', '[2, 1]'],
  ['jsonb', '{"a": null}', '{}'],
  ['text[]', '{NULL}', '{"NULL"}'],
  ['text[]', '{}', '{""}'],
  ['integer[]', '{{1,2}}', '{1,2}'],
  ['integer[]', '{{1,2},{3,4}}', '{{1,2,3,4}}'],
  ['integer[]', '[2:3]={1,2}', '[4:5]={1,2}'],
  ['text', 'a ', 'a'],
  ['interval', '1 day', '24:00:00'],
  ['interval', '1 mon', '30 days'],
  ['interval', '00:00:01', '-00:00:01'],
  ['interval', '00:00:00.000001', '00:00:00'],
  ['inet', '10.0.0.0/8', '10.0.0.0'],
  ['inet', '::1', '::2'],
  ['time with time zone', '12:00:00+02', '12:00:00-02'],
  ['citext', 'A', 'a'],
  ['ltree', 'a.b', 'a.B'],
  ['timestamp with time zone', '2026-01-01 00:00:00.000001+00', '2026-01-01 00:00:00+00'],
]

describe('plain form', () => {
  test.each(SAME)('%s: %s is %s', (type, here, there) => {
    expect(plainForm(type, here)).toBeDefined()
    expect(plainForm(type, here)).toBe(plainForm(type, there))
  })
  test.each(APART)('%s: %s is not %s', (type, here, there) => {
    expect(plainForm(type, here)).not.toBe(plainForm(type, there))
  })
  test.each(['interval', 'inet', 'time with time zone', 'tsvector', 'public.email', 'interval[]'])(
    'has no plain form for %s',
    (type) => {
      expect(plainForm(type, type.endsWith('[]') ? '{x}' : 'x')).toBeUndefined()
      expect(writtenAlike(type)).toBe(false)
    },
  )
})
