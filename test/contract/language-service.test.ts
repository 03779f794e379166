// Runs GitHub's language service, which supports `$/`, on this repository's workflows and on those that teams copy.
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { validate } from '@actions/languageservice'
import { expect, test } from 'vitest'
import { TextDocument } from 'vscode-languageserver-textdocument'

const REPO = resolve(import.meta.dirname, '../..')
const own = readdirSync(join(REPO, '.github/workflows')).map((name) => `.github/workflows/${name}`)
const copied = ['migrate-caller', 'migrate-jobs', 'operations', 'rehearse'].map((name) => `examples/${name}.yml`)

const problems = async (path: string, text: string) => {
  // The service caches parsed documents by this URI.
  const found = await validate(TextDocument.create(`file:///${path}`, 'yaml', 1, text))
  return found.map(({ message, range }) => `${range.start.line + 1}: ${message}`)
}

test.each([...own, ...copied])('%s has no problems', async (path) => {
  expect(await problems(path, readFileSync(join(REPO, path), 'utf8'))).toEqual([])
})

test('finds an unknown property', async () => {
  const text = readFileSync(join(REPO, 'examples/operations.yml'), 'utf8').replace(
    'timeout-minutes:',
    'timeout-minuten:',
  )
  expect(await problems('broken.yml', text)).toContainEqual(expect.stringContaining('timeout-minuten'))
})
