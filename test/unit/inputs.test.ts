import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { specs } from '../../src/actions/specs.ts'
import { InputError } from '../../src/runtime/errors.ts'
import { loadInputs } from '../../src/runtime/inputs.ts'
import { holdsSecret, redact } from '../../src/runtime/secrets.ts'
import { type ActionSpec, camel, defaulted, defineAction, optional, required } from '../../src/runtime/spec.ts'
import {
  argumentList,
  boolean,
  choice,
  connectionUrl,
  duration,
  type InputType,
  integer,
  list,
  size,
  text,
} from '../../src/runtime/types.ts'
import { tlsProblem, urlProblem } from '../../src/runtime/url.ts'

const spec = defineAction({
  name: 'paint',
  title: 'Paint',
  description: 'For this test.',
  icon: 'edit',
  inputs: {
    colour: defaulted(choice('red', 'green'), 'green', 'What colour.'),
    'dry-for': optional(duration, 'How long.'),
    coats: defaulted(integer(1, 9), '2', 'How many.'),
    tools: optional(list, 'With what.'),
    wall: required(connectionUrl, 'Where.'),
    config: optional(text, 'File.'),
  },
  outputs: {},
})
const other = { ...spec, name: 'sand', inputs: { grit: optional(integer(1, 999), 'How fine.') } } as ActionSpec
const WALL = 'postgresql://painter@127.0.0.1/house'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-inputs-'))
  vi.spyOn(process.stdout, 'write').mockReturnValue(true)
})
afterAll(() => {
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true, force: true })
})
afterEach(() => vi.unstubAllEnvs())

function load(inputs: Record<string, string>, config?: string) {
  if (config !== undefined) {
    const path = join(folder, 'config.yml')
    writeFileSync(path, config)
    vi.stubEnv('INPUT_CONFIG', path)
  }
  for (const [name, value] of Object.entries(inputs)) vi.stubEnv(`INPUT_${name.toUpperCase()}`, value)
  return loadInputs(spec, [spec, other])
}

describe('loadInputs', () => {
  test('returns typed values and defaults under camelCase names', () => {
    expect(load({ wall: WALL, 'dry-for': '90s', tools: 'brush, roller\nladder' })).toEqual({
      colour: 'green',
      dryFor: 90_000,
      coats: 2,
      tools: ['brush', 'roller', 'ladder'],
      wall: WALL,
      config: undefined,
    })
  })

  test("an input overrides the action's section, which overrides `common`, which overrides the default", () => {
    const config = 'common:\n  colour: red\n  coats: 3\n  dry-for: 1s\npaint:\n  coats: 4\n  dry-for: 2s\n'
    expect(load({ wall: WALL, 'dry-for': '3s' }, config)).toMatchObject({ colour: 'red', coats: 4, dryFor: 3000 })
  })

  test('accepts YAML lists, numbers and booleans', () => {
    expect(load({ wall: WALL }, 'paint:\n  tools: [a, 7]\n  coats: 5\n')).toMatchObject({ tools: ['a', '7'], coats: 5 })
  })

  test("another action's section has no effect, but its keys are still checked", () => {
    expect(load({ wall: WALL }, 'sand:\n  grit: 80\n')).toMatchObject({ coats: 2 })
    expect(() => load({ wall: WALL }, 'sand:\n  grid: 80\n')).toThrow(/:2:3: `sand.grid` .* Did you mean `grit`\?/)
  })

  test('reports an invalid value with its position in the file', () => {
    expect(() => load({ wall: WALL }, 'paint:\n  coats: 99\n')).toThrow(
      /config\.yml:2:10: `paint.coats`: "99" is not valid. Write a whole/,
    )
    expect(() => load({ wall: WALL, coats: '99' }, '')).toThrow(/^input `coats`: "99"/)
  })

  test('suggests nothing for a name that resembles no known name', () => {
    expect(() => load({ wall: WALL }, 'paint:\n  bucket: 1\n')).toThrow(
      /`paint.bucket` is unknown. docs\/config.schema.json/,
    )
  })

  test('reports a missing file or invalid YAML in one sentence', () => {
    expect(() => load({ wall: WALL, config: join(folder, 'nope.yml') })).toThrow(
      /nope.yml cannot be read: it does not exist\. Check out the repository before this step/,
    )
    expect(() => load({ wall: WALL }, 'paint: [5m\n')).toThrow(/config\.yml:2:1: This is not YAML/)
  })

  test('accepts an empty file', () => {
    expect(load({ wall: WALL }, '')).toMatchObject({ coats: 2 })
  })

  test.each(['- a\n- b\n', 'just a word\n', '42\n'])('rejects a file that is not a map: %j', (config) => {
    expect(() => load({ wall: WALL }, config)).toThrow(InputError)
  })

  test('takes a secret from the variable that the file names, and masks it', () => {
    vi.stubEnv('HOUSE', 'postgresql://painter:pa%24%24word-1@h/house')
    expect(load({}, 'paint:\n  wall: env:HOUSE\n').wall).toBe('postgresql://painter:pa%24%24word-1@h/house')
    expect(holdsSecret('x pa$$word-1 y')).toBe(true)
    expect(redact('pa%24%24word-1 or pa$$word-1')).toBe('*** or ***')
  })
})

describe.each(specs.map((each) => [each.name, each] as const))('every input of %s', (_, each) => {
  test("rejects an invalid value with one line that has the input's name and the fix, but no secret", () => {
    for (const [name, input] of Object.entries(each.inputs)) {
      const wrong = ['! no: such [thing', 'postgresql://u:hidden@tail@h'].find(
        (value) => !input.type.schema.safeParse(value).success,
      )
      if (wrong === undefined) continue
      const only = { ...each, inputs: { [name]: input } }
      vi.stubEnv(`INPUT_${name.toUpperCase()}`, wrong)
      let message = ''
      try {
        loadInputs(only, specs)
      } catch (error) {
        expect(error, name).toBeInstanceOf(InputError)
        message = (error as Error).message
      }
      vi.unstubAllEnvs()
      expect(message, name).toContain(`input \`${name}\``)
      expect(message, name).toContain(`Set it to ${input.type.hint}`)
      expect(message, name).not.toContain('\n')
      if (input.type.secret) expect(message, name).not.toMatch(/hidden|thing/)
    }
  })

  test('has a unique camelCase name', () => {
    const names = Object.keys(each.inputs).map(camel)
    expect(new Set(names).size).toBe(names.length)
  })
})

describe('types', () => {
  const cases: [string, InputType<unknown>, [string, unknown][], string[]][] = [
    [
      'duration',
      duration,
      [
        ['500ms', 500],
        ['30s', 30_000],
        ['1.5m', 90_000],
        ['2h', 7_200_000],
        ['1d', 86_400_000],
      ],
      ['30', '30 s', '-1s', 's', '1w', ''],
    ],
    [
      'size',
      size,
      [
        ['1B', 1],
        ['64MiB', 64 * 2 ** 20],
        ['1.5KiB', 1536],
      ],
      ['64MB', '1', '-1B', ''],
    ],
    [
      'boolean',
      boolean,
      [
        ['true', true],
        ['false', false],
      ],
      ['True', 'yes', '1', 'on', ''],
    ],
    [
      'integer',
      integer(0, 10),
      [
        ['0', 0],
        ['10', 10],
      ],
      ['11', '-1', '1.5', '1e1', ' 1', 'ten', ''],
    ],
    ['choice', choice('a', 'b'), [['a', 'a']], ['A', 'c', '']],
    [
      'list',
      list,
      [
        ['a,b', ['a', 'b']],
        ['- a\n- b', ['a', 'b']],
        ['[a, 1]', ['a', '1']],
        ['\n a \n', ['a']],
      ],
      ['[{a: 1}]', '[null]', '[a', '- [a]'],
    ],
    [
      'argumentList',
      argumentList,
      [
        ['[--a, 1, true]', ['--a', '1', 'true']],
        ['- "a,b"', ['a,b']],
      ],
      ['--a', 'a,b', '{a: 1}', '['],
    ],
  ]
  test('the hint for a duration lists every unit that the defaults use', () => {
    expect(duration.hint).toBe('a duration such as 500ms, 30s, 5m, 2h or 7d')
  })

  test.each(cases)('%s', (_, type, good, bad) => {
    for (const [value, wanted] of good)
      expect(type.schema.safeParse(value)).toMatchObject({ success: true, data: wanted })
    for (const value of bad) expect(type.schema.safeParse(value).success, JSON.stringify(value)).toBe(false)
  })

  test.each([
    'postgresql://h/d',
    'postgres://u@h:5432/d',
    'postgresql://u:p%40%3A%2F%25%23w@h:26257/d?sslmode=verify-full&options=-c%20a%3Db',
    'postgresql://u:p@[::1]:5432/d',
    'postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d?sslmode=disable',
    `postgresql://u@h/d?sslmode=verify-ca&sslrootcert=${import.meta.filename}`,
    "postgresql://u:!$&'()*+,;=-._~@h/d",
  ])('accepts a valid URL: %s', (url) => expect(urlProblem(url)).toBeUndefined())

  test.each([
    ['h:99999/d', 'its port must be a number from 1 to 65535'],
    ['h:abc/d', 'its port must be a number'],
    ['h:0/d', 'its port must be a number'],
    ['h:/d', 'its port must be a number'],
    ['[::1]:x/d', 'its port must be a number'],
    ['h/d?port=70000', 'its port must be a number'],
    ['h1:5432,h2:5432/d', 'it names several hosts. Use only the primary'],
    ['h1,h2/d', 'it names several hosts'],
    ['h/d?host=h1,h2', 'it names several hosts'],
    ['[::1/d', 'Write an IPv6 address in brackets'],
    ['::1:5432/d', 'Write an IPv6 address in brackets'],
    ['h/d?x=%FF', 'it does not parse as a URL'],
    ['h/d?sslmode=bogus', 'its sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full'],
    ['h/d?sslmode=verify-ca', 'needs sslrootcert'],
    ['h/d?sslrootcert=/nope.pem', 'sslrootcert names /nope.pem, which cannot be read on this runner'],
    ['h/d?sslcert=/nope.pem', 'sslcert names /nope.pem'],
    ['h/d?sslkey=%2Fnope.pem', 'sslkey names /nope.pem'],
  ])('reports what the driver would reject, without showing the URL: %s', (rest, problem) => {
    const told = urlProblem(`postgresql://u:hidden-1@${rest}`)
    expect(told).toContain(problem)
    expect(told).not.toMatch(/hidden|postgresql:/)
  })

  test.each(['@', ':', '/', '%', '#', '?', ' ', '[', ']'])('explains how to write a bare %s in a password', (bare) => {
    const problem = urlProblem(`postgresql://app:se${bare}cret@host:5432/shop?sslmode=require`)
    expect(problem).toMatch(/percent-encoded.*%40/)
    expect(problem).not.toMatch(/secret|cret@|host/)
  })

  test.each([
    ['postgresql://u@h/d?sslmode=verify-full', undefined],
    ['postgresql://u@h/d?sslmode=require', undefined],
    ['postgresql://u@h/d', 'no sslmode'],
    ['postgresql://u@h/d?sslmode=prefer', 'sslmode is prefer'],
    ['postgresql://u@h/d?sslmode=require&sslmode=disable', 'sslmode is disable'],
    ['postgresql://u@/d?host=/var/run/postgresql', undefined],
  ])('TLS of %s', (url, problem) => {
    if (problem) expect(tlsProblem(url)).toContain(problem)
    else expect(tlsProblem(url)).toBeUndefined()
  })
})
