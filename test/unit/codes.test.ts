import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { CODES } from '../../src/runtime/codes.ts'

const files = ['src', 'rehearsal']
  .flatMap((folder) => readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((file) => `${folder}/${file}`))
  .filter((file) => file.endsWith('.ts') && file !== 'src/runtime/codes.ts')
const code = files.map((file) => readFileSync(file, 'utf8')).join('\n')

/** Returns whether the source code uses an error code. Codes of a stuck stream are built from the kind of diagnosis. */
function isUsed(name: string): boolean {
  const kind = /^stream\.stuck\.(.*)$/.exec(name)?.[1]
  return code.includes(`'${name}'`) || (kind !== undefined && new RegExp(`[\\s,]'${kind}',[\\s]`).test(code))
}

test('every code in the table is used', () => {
  expect(Object.keys(CODES).filter((name) => !isUsed(name))).toEqual([])
})

test('printed SQL has no placeholders to fill in', () => {
  const gap = /\b(ALTER|GRANT|REVOKE|CREATE|DROP|UPDATE|SELECT|INSERT)\b[^`'"]*…|\bTO` the\b/
  const printed = files
    .filter((file) => file.startsWith('src/'))
    .concat('src/runtime/codes.ts')
    .flatMap((file) => readFileSync(file, 'utf8').split('\n'))
    .filter((line) => !/^\s*(\*|\/\*|\/\/)/.test(line))
  expect(printed.filter((line) => gap.test(line))).toEqual([])
})

test('the table is sorted', () => {
  const names = Object.keys(CODES)
  expect(names).toEqual([...names].sort())
})

test.each(Object.entries(CODES))('%s is explained in full sentences', (name, { meaning, cause, fix }) => {
  expect(name).toMatch(/^[a-z]+(-[a-z]+)*(\.[a-z]+(-[a-z]+)*)+$/)
  for (const text of [meaning, cause, fix]) expect(text).toMatch(/^[A-Z`"].*[.)]$/s)
})
