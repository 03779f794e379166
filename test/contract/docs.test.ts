// Checks that the links, anchors, npm scripts, codes and actions in the documents exist.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import packageJson from '../../package.json' with { type: 'json' }
import { specs } from '../../src/actions/specs.ts'
import { CHECKS } from '../../src/checks/index.ts'

const REPO = resolve(import.meta.dirname, '../..')
const list = (folder: string) =>
  (readdirSync(join(REPO, folder), { recursive: folder !== '' }) as string[]).map((name) => join(folder, name))
const documents = ['', 'docs', 'actions'].flatMap(list).filter((path) => path.endsWith('.md'))
const read = (path: string) => readFileSync(join(REPO, path), 'utf8')
const prose = (text: string) => text.replace(/```[\s\S]*?```/g, '')

/** Returns the anchors that GitHub generates for the headings. */
function anchors(text: string): string[] {
  const seen = new Map<string, number>()
  return [...prose(text).matchAll(/^#{1,6} (.+)$/gm)].map(([, heading = '']) => {
    const slug = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '')
      .replaceAll(' ', '-')
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    return count ? `${slug}-${count}` : slug
  })
}

describe.each(documents)('%s', (path) => {
  const text = read(path)

  test('links only to existing files and headings', () => {
    const links = [...prose(text).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = '']) => link)
    const broken = links.filter((link) => {
      if (/^https?:/.test(link)) return false
      const [file = '', anchor] = link.split('#')
      const other = file ? join(dirname(path), file) : path
      if (!existsSync(join(REPO, other))) return true
      return anchor !== undefined && !anchors(read(other)).includes(anchor)
    })
    expect(broken).toEqual([])
  })

  test('names only existing npm scripts and actions', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    for (const [, script = ''] of text.matchAll(/npm run (?:--silent )?([\w:-]+)/g))
      expect(scripts).toHaveProperty(script)
    const names = specs.map(({ name }) => name)
    for (const [, name = ''] of text.matchAll(/(?:OWNER\/REPO|\$)\/actions\/([a-z-]+)/g)) expect(names).toContain(name)
  })
})

test('every document in docs/ is reachable from the README', () => {
  const linked = documents.flatMap((path) =>
    [...read(path).matchAll(/\]\(([^)#\s]+\.md)/g)].map(([, link = '']) => join(dirname(path), link)),
  )
  for (const path of documents.filter((each) => each.startsWith('docs/'))) expect(linked).toContain(path)
})

test("troubleshooting lists GitHub's two errors on runners without `$/`", () => {
  expect(read('docs/troubleshooting.md')).toMatch(/Expected format \{org\}\/\{repo\}/)
  expect(read('docs/troubleshooting.md')).toMatch(/was not resolved before LoadAction/)
})

test('the support policy matches the checks, the package and the actions', () => {
  const policy = read('SECURITY.md')
  const row = (part: string) => new RegExp(`^\\| ${part} \\| (.*) \\|$`, 'm').exec(policy)?.[1] ?? ''
  const fix = (id: string) => CHECKS.find((check) => check.id === id)?.fix ?? ''
  const [postgres = ''] = /\d+ to \d+/.exec(fix('src.version')) ?? []
  const [recommended = ''] = /\d+\.\d+ or newer/.exec(fix('tgt.version')) ?? []
  const least = /before (\d+\.\d+)/.exec(CHECKS.find(({ id }) => id === 'tgt.version')?.protects ?? '')?.[1]
  expect(row('PostgreSQL')).toBe(`${postgres} as the source`)
  expect(row('CockroachDB')).toBe(`${least} or newer as the target; ${recommended} is recommended`)
  expect(row('Node')).toContain(`${packageJson.engines.node.replace('>=', '')} and 24`)
  for (const { name } of specs) expect(read(`actions/${name}/action.yml`)).toContain('using: node24')
})
