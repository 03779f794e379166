import { info, warning } from '@actions/core'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { guardOutput } from '../../src/runtime/output.ts'
import { addSecret } from '../../src/runtime/secrets.ts'

let printed: string
let unguard: () => void
beforeEach(() => {
  printed = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed += text
    return true
  })
  unguard = guardOutput()
})
afterEach(() => {
  unguard()
  vi.restoreAllMocks()
})

/** Commands that the runner would execute. */
function commands(): string[] {
  return printed.split(/\r\n|\n|\r/).filter((line) => /^\s*::[a-z-]+|##\[/.test(line))
}

test.each([
  '::add-mask::e',
  '::stop-commands::x',
  '  ::set-output name=verdict::go',
  'orders\n::error::x',
  'orders\r::error::x',
  'orders\n \t::add-path::/x',
  'orders ##[error]x',
])('is not a command: %j', (text) => {
  info(text)
  expect(commands()).toEqual([])
})

test("the action's own commands still work", () => {
  warning('two\nlines')
  addSecret('hidden-1\nhidden-2')
  expect(commands()).toEqual([
    '::warning::two%0Alines',
    '::add-mask::hidden-1%0Ahidden-2',
    '::add-mask::hidden-1',
    '::add-mask::hidden-2',
  ])
})

test('makes escape sequences and text direction marks visible', () => {
  info('a\u001b[2J\u009b31m\u202eb\tc\r\nd')
  expect(printed).toBe('a\ufffd[2J\ufffd31m\ufffdb\tc\r\nd\n')
})
