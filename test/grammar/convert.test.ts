// CockroachDB's own grammar parses every statement in the conversion's golden files and in the corpus.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parseAll } from './grammar.ts'

const FOLDERS = ['golden/convert', 'corpus'].map((name) => join(import.meta.dirname, '..', name))

const files = FOLDERS.flatMap((folder) =>
  readdirSync(folder).flatMap((name) => (name.endsWith('.txt') ? join(folder, name) : [])),
)

function scriptOf(file: string): string {
  const parts = readFileSync(file, 'utf8').split(/^-- ([\w.-]+) --\n/m)
  return parts.flatMap((name, at) => (/^[123]-/.test(name) ? [parts[at + 1]] : [])).join('\n')
}

test('CockroachDB parses every statement', { timeout: 900_000 }, async () => {
  const answers = await parseAll(files.map(scriptOf))
  expect(answers).toHaveLength(files.length)
  expect(files.flatMap((file, at) => ('error' in (answers[at] ?? {}) ? [{ file, ...answers[at] }] : []))).toEqual([])
  expect(answers.flatMap((each) => ('statements' in each ? each.statements : [])).length).toBeGreaterThan(100)
})

test('CockroachDB rejects invalid statements, which shows that the test above can fail', {
  timeout: 900_000,
}, async () => {
  const answers = await parseAll(['CREATE INDEX i ON t (a NULLS LAST)', 'CREATE TABLE t (a INT8)'])
  expect(answers).toEqual([
    { error: expect.stringContaining('unimplemented') },
    { statements: ['CREATE TABLE t (a INT8)'] },
  ])
})
