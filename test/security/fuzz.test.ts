/**
 * Feeds unexpected input to every parser. `MOLT_ACTIONS_RUNS=<n>` sets the number of runs. A failing run prints its
 * seed, and `MOLT_ACTIONS_SEED=<seed>` repeats it.
 */
import { PassThrough } from 'node:stream'
import fc from 'fast-check'
import pgConnectionString from 'pg-connection-string'
import { describe, expect, test, vi } from 'vitest'
import { specs } from '../../src/actions/specs.ts'
import { literalsOf, partsOf } from '../../src/masking/literals.ts'
import { parseRules } from '../../src/masking/rules.ts'
import { expressionForm, readIndex } from '../../src/model/expression.ts'
import { parseSnapshot } from '../../src/model/snapshot.ts'
import { tokens } from '../../src/model/tokens.ts'
import { markdownCode, markdownText } from '../../src/report/markdown.ts'
import { parseConfig } from '../../src/runtime/config.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import { explainWords } from '../../src/runtime/refusals.ts'
import { addSecretUrl, redact } from '../../src/runtime/secrets.ts'
import { urlProblem } from '../../src/runtime/url.ts'
import { decodeMessage, formatLsn, parseLsn } from '../../src/source/pgoutput.ts'
import { explainDiagnosis } from '../../src/tools/diagnoses.ts'
import { parseEvent } from '../../src/tools/events.ts'
import { readLines } from '../../src/tools/lines.ts'
import { accountFor, emptyAccount } from '../../src/tools/molt-fetch.ts'
import { accountForVerify, emptyVerifyAccount } from '../../src/tools/molt-verify.ts'
import { splitPassword } from '../../src/tools/passwords.ts'
import { parseLogLine, parseMetrics } from '../../src/tools/replicator.ts'
import { moltScrubber, scrubReplicator, scrubText } from '../../src/tools/scrub.ts'
import { formsOf, leaks } from '../support/leaks.ts'

const { MOLT_ACTIONS_RUNS: runs, MOLT_ACTIONS_SEED: seed, MOLT_ACTIONS_NIGHTLY: night } = process.env
const HOW = { numRuns: Number(runs ?? (night ? 3_000 : 150)), ...(seed && { seed: Number(seed) }) }

/** Texts that break quoting or encoding, and parts of the tools' output. */
const PIECES = [
  ...[
    '"',
    "'",
    '`',
    '\\',
    '$(id)',
    '%',
    '%0A',
    '\n',
    '\r',
    '\u2028',
    '\0',
    '\u001b[2J',
    '\u202e',
    '::error::x',
    '##[error]x',
    '{',
    '}',
  ],
  ...[
    '[',
    ']',
    ':',
    '=',
    ',',
    '@',
    '/',
    '?',
    '#',
    '&',
    '=(',
    ')=(',
    'é',
    '東',
    '😀',
    '\ud800',
    'level=warning msg="',
    'error="',
    '{"message":"',
  ],
  ...[
    'fetch complete',
    'SQLSTATE 23505',
    'ERROR: ',
    'duplicate key value',
    'Key (a)=(',
    'failed on row: ',
    '[2025-08-25T14:40:02-05:00]',
    'null',
    '1e999',
  ],
]
const text = fc
  .array(fc.oneof(fc.constantFrom(...PIECES), fc.string({ unit: 'binary', maxLength: 12 })), { maxLength: 12 })
  .map((parts) => parts.join(''))
const line = text.map((each) => each.replace(/[\r\n]/g, ' '))

/**
 * Checks a property for generated values, with a time limit that reveals backtracking: no parser may take a second for a
 * few hundred characters.
 */
function holds<T>(arbitrary: fc.Arbitrary<T>, probe: (value: T) => void, most = HOW.numRuns): void {
  fc.assert(
    fc.property(arbitrary, (value) => {
      const began = performance.now()
      probe(value)
      expect(performance.now() - began).toBeLessThan(3_000)
    }),
    { ...HOW, numRuns: Math.min(most, HOW.numRuns) },
  )
}

describe('tool output', () => {
  const event = fc.oneof(
    line,
    fc.json({ stringUnit: 'binary' }),
    fc.object().map((each) => JSON.stringify(each)),
  )

  test('parses an event into an object whose text fields are strings, or undefined', () => {
    holds(event, (each) => {
      const { level, message, type } = parseEvent(each) ?? {}
      for (const field of [level, message, type]) expect(['string', 'undefined']).toContain(typeof field)
    })
  })

  test('parses a log line into a level and a message, or undefined', () => {
    holds(
      fc.oneof(
        event,
        line.map((each) => `time="x" level=warning msg=${JSON.stringify(each)} error=${each}`),
      ),
      (each) => {
        const found = parseLogLine(each)
        if (found) expect([typeof found.level, typeof found.message]).toEqual(['string', 'string'])
      },
    )
  })

  test('parses metrics into numbers', () => {
    const sample = fc.tuple(
      fc.constantFrom('apply_upserts_total', 'apply_errors_total', 'x'),
      text,
      fc.oneof(text, fc.constantFrom('NaN', '+Inf', '-1', '1e999')),
    )
    const page = fc
      .array(sample.map(([name, label, value]) => `${name}{table="${label}"} ${value}`))
      .map((all) => all.join('\n'))
    holds(fc.oneof(page, text), (each) => {
      for (const value of Object.values(parseMetrics(each))) expect(Number.isFinite(value) && value >= 0).toBe(true)
    })
  })

  test('only a completion record completes a load or a comparison', () => {
    const fields = fc.dictionary(
      fc.constantFrom(
        'table',
        'table_name',
        'num_rows',
        'num_truth_rows',
        'num_missing',
        'cdc_cursor',
        'reason',
        'error',
      ),
      fc.oneof(line, fc.integer(), fc.constant(null), fc.constantFrom('__proto__', 'constructor', 'toString')),
    )
    const message = fc.oneof(
      line,
      line.map((each) => `fetch complete ${each}`),
      fc.constantFrom(
        'data extraction from source complete',
        'data import on target for table complete',
        'finished row verification on public.a (shard 1/1)',
        'mismatching row value',
        'missing table detected',
        'table public.a do not have matching primary keys',
      ),
    )
    holds(fc.array(fc.tuple(message, fields), { maxLength: 8 }), (events) => {
      const [load, comparison] = [emptyAccount(), emptyVerifyAccount()]
      for (const [said, more] of events) {
        accountFor(load, { ...more, message: said })
        accountForVerify(comparison, { ...more, message: said })
      }
      expect(load.complete).toBe(events.some(([said]) => said.startsWith('fetch complete')))
      expect(comparison.complete).toBe(events.some(([said]) => said === 'verification complete'))
      const counts = [load.exportedRows, load.importedRows, ...Object.values(load.tables).flatMap(Object.values)]
      for (const count of [...counts, ...Object.values(load.unknown.messages)])
        expect(count).toEqual(expect.any(Number))
      for (const { rows, missing } of comparison.tables.values()) expect(Number.isFinite(rows + missing)).toBe(true)
    })
  })

  test('diagnoses tool output in one line', () => {
    holds(text, (each) => {
      expect(explainDiagnosis(each) ?? '').not.toMatch(/[\r\n]/)
      expect(typeof explainWords(each)).toMatch(/undefined|object/)
    })
  })

  test('splits output into the same lines, however the chunks arrive', async () => {
    const parts = fc.array(text, { maxLength: 6 })
    await fc.assert(
      fc.asyncProperty(parts, async (all) => {
        const whole = Buffer.from(all.join(''))
        const split = async (size: number) => {
          const stream = new PassThrough()
          const lines: string[] = []
          const over = readLines(stream, (each) => lines.push(each))
          for (let at = 0; at < whole.length; at += size) stream.write(whole.subarray(at, at + size))
          stream.end()
          await over
          return lines
        }
        expect(await split(1)).toEqual(await split(whole.length + 1))
      }),
      HOW,
    )
  })
})

describe('values in tool output', () => {
  /** A row value that the tools would never print by themselves. */
  const CANARY = 'canary.person@example.org'
  const around = fc
    .tuple(line, line)
    .map(([before, after]) => [before.replaceAll('@', ''), after.replaceAll('@', '')] as const)

  test('removes values from a line, whatever surrounds them', () => {
    const molt = moltScrubber()
    holds(around, ([before, after]) => {
      const said = `${before} ${CANARY} ${after}`
      const row = JSON.stringify({
        message: 'mismatching row value',
        primary_key: [said],
        source_values: { email: said },
      })
      const lines = [scrubText(said), molt(said), molt(row), molt(row.slice(0, -9)), scrubReplicator(said)]
      lines.push(scrubReplicator(`time="x" level=error msg="apply" error=${JSON.stringify(said)}`))
      for (const each of lines) expect(each).not.toContain('canary.person')
    })
  })

  /** Messages with values that only their position in the message reveals. */
  test.each([
    (value: string) =>
      `ERROR: duplicate key value violates unique constraint "k" (SQLSTATE 23505) Key (name)=(${value}) already exists.`,
    (value: string) => `ERROR: failed on row: id=7, name='${value}'`,
    (value: string) => `ERROR: invalid input syntax for type integer: "${value}" (SQLSTATE 22P02)`,
    (value: string) => `ERROR: could not parse "${value}" as type int (SQLSTATE 22P02)`,
    (value: string) => `Failing row contains (7, ${value}, 2).`,
    (value: string) => `ERROR: foreign key violation: "orders" row name='${value}', id=7 has no match in "customers"`,
  ])("removes values from either server's wording: %s", (wording) => {
    holds(line, (more) => {
      const value = `Zaphod${more.replaceAll('"', '').replaceAll('\\', '')}Beeblebrox`
      const scrubbed = [
        scrubText(wording(value)),
        scrubReplicator(`time="x" level=error msg="apply" error=${JSON.stringify(wording(value))}`),
      ]
      for (const each of scrubbed) expect(each).not.toMatch(/Zaphod|Beeblebrox/)
    })
  })
})

describe('user input', () => {
  const types = specs.flatMap(({ name, inputs }) =>
    Object.entries(inputs).map(([input, { type }]) => [`${name}: ${input}`, type] as const),
  )
  test('every input accepts or rejects any text', () => {
    const short = { ...HOW, numRuns: Math.ceil(HOW.numRuns / 20) }
    for (const [name, { schema }] of types)
      fc.assert(
        fc.property(fc.oneof(text, fc.webUrl(), fc.json()), (value) => {
          expect(typeof schema.safeParse(value).success, name).toBe('boolean')
        }),
        short,
      )
  })

  test('masking rules parse, or fail with a code', () => {
    holds(
      fc.oneof(
        text,
        fc.json(),
        text.map((each) => `version: 1\ntables:\n  t:\n    c: ${JSON.stringify(each)}`),
      ),
      (each) => {
        try {
          parseRules(each, 'mask.yml')
        } catch (error) {
          expect(errorCode(error)).toBe('mask.rules-invalid')
        }
      },
    )
  })

  test("reports a config file's problems at positions inside the file", () => {
    const section = fc.constantFrom('common', 'cutover', 'prepare', '__proto__', 'constructor')
    const given = fc.tuple(section, text).map(([name, each]) => `${name}:\n  ${JSON.stringify(each)}: ${each}`)
    holds(fc.oneof(text, fc.json(), given), (each) => {
      const lines = each.split(/\r\n|\n|\r/).length
      for (const { line: at, column } of parseConfig(each, specs).problems) {
        expect(at).toBeLessThanOrEqual(lines + 1)
        expect(Math.min(at, column)).toBeGreaterThanOrEqual(1)
      }
    })
  })

  const password = fc
    .string({ unit: 'grapheme', minLength: 8, maxLength: 40 })
    .filter((each) => !/^\s|\s$|[\r\n\0]/.test(each))

  test("passes a URL's password to the program, and does not show it", () => {
    // Masking a password prints an `::add-mask::` command, which contains it.
    const printed = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const probe = (each: string) => {
      const url = `postgresql://mover:${encodeURIComponent(each)}@db.example.org:5432/shop?sslmode=verify-full`
      expect(urlProblem(url)).toBeUndefined()
      expect(pgConnectionString.parse(url).password).toBe(each)
      const split = splitPassword(url)
      if (split) expect(split.url).not.toContain(encodeURIComponent(each))
      addSecretUrl(url)
      const forms = formsOf(each)
      const repeated = ['raw', 'URL', 'URL, sub-delimiters too', 'JSON'].map((form) => forms.get(form)).join(' | ')
      expect(leaks({ text: redact(`${url} ${repeated}`) }, { password: each })).toEqual([])
    }
    try {
      holds(password, probe, 300)
    } finally {
      printed.mockRestore()
    }
  })

  test('explains what is wrong with a URL without quoting it', () => {
    holds(password, (each) => {
      const url = `postgresql://mover:${each}@db/shop`
      const problem = urlProblem(url)
      if (problem) expect(problem).not.toContain(each)
    })
  })
})

describe('catalog contents', () => {
  const sql = fc
    .array(
      fc.oneof(
        fc.constantFrom('(', ')', "'", '"', '::', ' ', 'a', '1', 'CASE WHEN', '$$', '--', '/*', "e'", '||'),
        text,
      ),
      {
        maxLength: 30,
      },
    )
    .map((parts) => parts.join(''))

  test('splits SQL into tokens that together are the same text', () => {
    holds(sql, (each) => {
      expect(
        tokens(each)
          .map((token) => token.text)
          .join(''),
      ).toBe(each)
    })
  })

  test('normalizes an expression or gives up', () => {
    holds(sql, (each) => {
      for (const form of [expressionForm(each), readIndex(`CREATE INDEX i ON t USING btree (${each})`)?.form])
        expect(typeof form).toMatch(/undefined|string/)
    })
  })

  test('finds the literals in a schema within the time limit', () => {
    holds(sql, (each) => {
      for (const part of partsOf(literalsOf([each]))) expect(part).not.toBe('')
    })
  })
})

describe('replication messages', () => {
  test('decodes or rejects a message, wherever it is truncated', () => {
    const bytes = fc.uint8Array({ maxLength: 200 })
    const kind = fc.constantFrom(...'BCRIUDTOYM')
    holds(fc.tuple(kind, bytes), ([type, rest]) => {
      try {
        decodeMessage(Buffer.concat([Buffer.from(type), rest]))
      } catch (error) {
        expect(error).toBeInstanceOf(Error)
      }
    })
  })

  test('formats and parses a position without loss', () => {
    holds(fc.bigInt(0n, 2n ** 64n - 1n), (lsn) => expect(parseLsn(formatLsn(lsn))).toBe(lsn))
    holds(text, (each) => expect(parseLsn(each)).toBeGreaterThanOrEqual(0n))
  })

  test('parses or rejects a snapshot', () => {
    holds(text, (each) => {
      try {
        parseSnapshot(each)
      } catch (error) {
        expect(error).toBeInstanceOf(Error)
      }
    })
  })
})

describe('summaries', () => {
  test('shows a name as plain text', () => {
    holds(text, (each) => {
      for (const shown of [markdownText(each), markdownCode(each)]) {
        expect(shown).not.toMatch(/[\r\n]/)
        expect(shown.replace(/`+[^`]*`+/g, '')).not.toMatch(/<(?!br>|\/?code>)[a-z!/]/i)
      }
    })
  })
})
