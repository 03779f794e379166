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
  throw new Error('the options were accepted')
}

const SOURCE = ['--source', 'postgresql://h/d', '--allow-source', 'd']
const OWN = ['--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'd']

describe('the options of the rehearsal', () => {
  test.each([
    [['--rows', 'many'], '--rows'],
    [['--rows', '10'], '--rows'],
    [['--rate', '-1'], '--rate'],
    [['--fast'], '--fast'],
    [['surprise'], 'surprise'],
    [['--target', 'postgresql://h/d'], '--target needs --source'],
    [['--source', 'postgresql://h/d'], '--allow-source', 'rehearse.source-not-allowed'],
    [[...SOURCE, '--rows', '1000'], '--rows'],
    [[...SOURCE, '--bucket-path', 's3://b'], '--bucket-path'],
    [['--decisions', 'convert.yml'], '--decisions'],
    [
      ['--source', 'postgresql://h/d', '--target', 'postgresql://h/e'],
      '--allow-source d',
      'rehearse.source-not-allowed',
    ],
    [['--source', 'postgresql://a:p@q@h/d', '--target', 'postgresql://h/e'], '%40'],
    [
      ['--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'e'],
      '--allow-source d',
      'rehearse.source-not-allowed',
    ],
    [['--source', 'postgresql://u:secret@h:99999/d?sslmode=require', '--target', 'postgresql://h/e'], '--source: '],
    [['--mode', 'copy'], 'import, use-copy, direct-copy'],
    [['--mode', 'direct-copy', '--files', 'bucket'], '--files'],
    [['--files', 'tape'], '--files'],
    [['--bucket-path', 's3://b'], '--bucket-path'],
    [[...OWN, '--mode', 'import'], '--bucket-path'],
    [[...OWN, '--bucket-path', 's3://b', '--files', 'bucket'], '--files'],
    [['--bin-dir', '/not/there'], '/not/there'],
    [['--mask', '--rows', '2000'], '3000'],
    [['--mask', '--source', 'postgresql://h/d', '--target', 'postgresql://h/e', '--allow-source', 'd'], '--mask'],
  ])('refuses %j in one line that names %s', (args, named, code = 'rehearse.invalid-option') => {
    const error = refusal(args)
    expect(error).toBeInstanceOf(InputError)
    expect(error).toMatchObject({ code })
    expect(error.message).toContain(named)
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
