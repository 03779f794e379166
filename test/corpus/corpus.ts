import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import * as z from 'zod'

/*
 * Small schemas modeled on real applications, one per file. Sections: `about`; `options`; `source` and `rows`, SQL for
 * a new schema; `fixes`, what the owner changes on the source after the findings of `prepare`; `load`, statements that
 * run one after another during streaming, with `{n}` for the round; then the expected results.
 */

const Options = z.strictObject({
  /** Tables that are not moved. */
  exclude: z.array(z.string()).default([]),
  /** Findings that the owner waives, in the syntax of `waive`. */
  waive: z.array(z.string()).default([]),
})

export interface Case extends z.infer<typeof Options> {
  name: string
  path: string
  schema: string
  about: string
  source: string
  rows: string
  fixes: string
  load: string[]
  /** The file's text before the expected results. */
  head: string
  goldens: ReadonlyMap<string, string>
}

const GIVEN = ['about', 'options', 'source', 'rows', 'fixes', 'load']

export const corpus: readonly Case[] = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.txt'))
  .sort()
  .map((file) => readCase(file.slice(0, -'.txt'.length)))

function readCase(name: string): Case {
  const path = join(import.meta.dirname, `${name}.txt`)
  const text = readFileSync(path, 'utf8')
  const parts = text.split(/^-- ([\w.-]+) --\n/m).slice(1)
  const sections = new Map(parts.flatMap((key, at) => (at % 2 ? [] : [[key, parts[at + 1] ?? ''] as const])))
  const schema = name.replaceAll('-', '_')
  const sql = (key: string) => (sections.get(key) ?? '').replaceAll('{schema}', schema)
  return {
    ...Options.parse(parse(sections.get('options') ?? '') ?? {}),
    name,
    path,
    schema,
    about: sql('about').trim(),
    source: sql('source'),
    rows: sql('rows'),
    fixes: sql('fixes'),
    load: sql('load').trim().split('\n'),
    head: GIVEN.map((key) => `-- ${key} --\n${sections.get(key) ?? ''}`).join(''),
    goldens: new Map([...sections].filter(([key]) => !GIVEN.includes(key))),
  }
}
