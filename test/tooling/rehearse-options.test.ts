import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readOptions } from '../../rehearsal/cli/options.ts'
import { InputError } from '../../src/runtime/errors.ts'

function refusal(args: string[]): Error {
  try {
    readOptions(args)
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was refused')
}

const SOURCE = ['--source', 'postgresql://h/d', '--allow-source', 'd']
const OWN = ['--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'd']

describe('the options of the rehearsal', () => {
  test.each([
    [['--rows', 'many'], /--rows must be a whole number from 1000/],
    [['--rows', '10'], /--rows must be a whole number from 1000/],
    [['--rate', '-1'], /--rate/],
    [['--fast'], /--fast/],
    [['surprise'], /surprise/],
    [['--target', 'postgresql://h/d'], /--target needs --source/],
    [['--source', 'postgresql://h/d'], /--allow-source must name the source's database/],
    [[...SOURCE, '--rows', '1000'], /--rows is for the sample shop/],
    [[...SOURCE, '--bucket-path', 's3://b'], /--bucket-path is for --source and --target/],
    [['--decisions', 'convert.yml'], /--decisions is for --source/],
    [
      ['--source', 'postgresql://h/d', '--target', 'postgresql://h/e'],
      /--allow-source must name the source's database/,
    ],
    [['--source', 'postgresql://a:p@q@h/d', '--target', 'postgresql://h/e'], /--source: .*%40/],
    [['--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'e'], /--allow-source/],
    [
      ['--source', 'postgresql://u:secret@h:99999/d?sslmode=require', '--target', 'postgresql://h/e'],
      /^--source: .*\bport\b/,
    ],
    [['--mode', 'copy'], /--mode must be import, use-copy, direct-copy/],
    [['--mode', 'direct-copy', '--files', 'bucket'], /--mode direct-copy has no files/],
    [['--files', 'tape'], /--files must be bucket or folder/],
    [['--bucket-path', 's3://b'], /--bucket-path is for --source and --target/],
    [[...OWN, '--mode', 'import'], /--mode import with --target needs --bucket-path/],
    [[...OWN, '--bucket-path', 's3://b', '--files', 'bucket'], /--files is not for a target of yours/],
    [['--bin-dir', '/not/there'], /\/not\/there/],
    [['--mask', '--rows', '2000'], /--rows must be a whole number from 3000/],
    [
      ['--mask', '--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'd'],
      /--mask is for the sample shop/,
    ],
  ])('%j is wrong usage, reported in one line', (args, message) => {
    const error = refusal(args)
    expect(error).toBeInstanceOf(InputError)
    expect(error.message).toMatch(message)
    expect(error.message).not.toMatch(/secret|\n/)
    expect(error.message).toMatch(/--help/)
  })

  test('keeps valid options, with defaults for the others', () => {
    expect(readOptions(['--mask', '--rows', '3000', '--rate', '0', '--json'])).toMatchObject({
      ...{ rows: 3000, rate: 0, mask: true, json: true, keep: false, source: undefined, binDir: undefined },
    })
    expect(readOptions(['--rows', '1000'])).toMatchObject({ rows: 1000, rate: expect.any(Number) })
    expect(readOptions(OWN)).toMatchObject({ source: 'postgresql://h/d', rate: undefined })
    expect(readOptions(['--help'])).toBeUndefined()
  })

  test('accepts a source without a target, and names only the source in the command that repeats it', () => {
    const options = readOptions([...SOURCE, '--decisions', 'convert.yml', '--target-version', '26.1'])
    expect(options).toMatchObject({
      source: 'postgresql://h/d',
      target: undefined,
      rate: undefined,
      mode: 'import',
      files: 'bucket',
      chain: { decisions: resolve('convert.yml') },
      cluster: { version: '26.1' },
    })
    expect(options?.again).toContain('--source "$MOLT_SOURCE"')
    expect(options?.again).not.toContain('$MOLT_TARGET')
  })

  test('imports rows through a bucket by default', () => {
    expect(readOptions([])).toMatchObject({ mode: 'import', files: 'bucket' })
    expect(readOptions(['--files', 'folder'])).toMatchObject({ mode: 'import', files: 'folder' })
    expect(readOptions(['--mode', 'use-copy'])).toMatchObject({ mode: 'use-copy', files: 'bucket' })
    expect(readOptions(['--mode', 'direct-copy'])).toMatchObject({ mode: 'direct-copy', files: undefined })
    expect(readOptions(OWN)).toMatchObject({ mode: 'direct-copy', files: undefined })
    const bucket = { mode: 'import', files: { bucketPath: 's3://b/p' } }
    expect(readOptions([...OWN, '--bucket-path', 's3://b/p'])).toMatchObject(bucket)
  })
})
