import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { makeFolder, newFolder, withFolder } from '../../src/phases/load/folder.ts'

describe('the folder of a load', () => {
  test('is unique', () => expect(newFolder('main')).not.toBe(newFolder('main')))

  test.each([
    ['s3://b', 's3://b/F'],
    ['s3://b/p/', 's3://b/p/F'],
    ['s3://b/p?AWS_REGION=eu&x=/a?b', 's3://b/p/F?AWS_REGION=eu&x=/a?b'],
    ['azure-blob://c/p', 'azure-blob://c/p/F'],
  ])('%s', (bucketPath, expected) =>
    expect(withFolder({ mode: 'import', bucketPath }, 'F')).toEqual({ mode: 'import', bucketPath: expected }),
  )

  test('is not used for a direct copy, or for a load that an older version started', () => {
    expect(withFolder({ mode: 'direct-copy', bucketPath: 's3://b' }, 'F').bucketPath).toBe('s3://b')
    expect(withFolder({ mode: 'import', bucketPath: 's3://b' }, undefined).bucketPath).toBe('s3://b')
  })

  test('is part of the address where local files are served', () => {
    const files = {
      mode: 'import',
      localPath: '/f',
      localPathListenAddr: '0.0.0.0:9',
      localPathCrdbAccessAddr: 'h:9',
    } as const
    expect(withFolder(files, 'F')).toMatchObject({ localPath: '/f/F', localPathCrdbAccessAddr: 'h:9/F' })
    expect(withFolder({ ...files, mode: 'use-copy' }, 'F')).toMatchObject({
      localPath: '/f/F',
      localPathCrdbAccessAddr: 'h:9',
    })
  })

  test('contains a link with its own name to itself, even if it is created twice', async () => {
    const root = mkdtempSync(join(tmpdir(), 'folder-'))
    try {
      const files = { mode: 'import', localPath: join(root, 'F'), localPathListenAddr: ':9' } as const
      await makeFolder(files, 'F')
      await makeFolder(files, 'F')
      expect(realpathSync(join(root, 'F/F'))).toBe(realpathSync(join(root, 'F')))
    } finally {
      rmSync(root, { recursive: true })
    }
  })
})
