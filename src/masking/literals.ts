/** The parts of SQL that can contain text. Words are read too: in `a$b$c` no dollar begins a quote. */
const TOKEN = new RegExp(
  [
    String.raw`--(?<line>[^\n]*)`,
    String.raw`/\*(?<block>[\s\S]*?)\*/`,
    '"(?<name>(?:[^"]|"")*)"',
    String.raw`[eE]'(?<escaped>(?:[^'\\]|\\[\s\S]|'')*)'`,
    `[uU]&'(?<coded>(?:[^']|'')*)'`,
    `'(?<plain>(?:[^']|'')*)'`,
    String.raw`(?<tag>\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$)(?<body>[\s\S]*?)\k<tag>`,
    String.raw`[A-Za-z_\x80-\uffff][\w$\x80-\uffff]*`,
    String.raw`(?<number>\d{5,})`,
  ].join('|'),
  'g',
)

/**
 * Every text in SQL, unquoted: literals of every kind, comments, long numbers, and names that no program would generate.
 * Quoted text can be SQL itself, such as a function's body, and is read as well.
 */
export function literalsOf(schema: readonly string[]): string[] {
  const found = new Set<string>()
  const read = (sql: string) => {
    for (const { groups = {} } of sql.matchAll(TOKEN)) {
      const text = textOf(groups as Record<string, string | undefined>)
      if (!text || found.has(text)) continue
      found.add(text)
      if (/['"$]|--|\/\*/.test(text) && text !== sql) read(text)
    }
  }
  for (const sql of schema) read(sql)
  return [...found]
}

function textOf(groups: Record<string, string | undefined>): string | undefined {
  const { line, block, name, escaped, coded, plain, body, number } = groups
  if (escaped !== undefined) return unescaped(escaped.replaceAll("''", "'"))
  if (coded !== undefined) return coded.replaceAll("''", "'").replaceAll(/\\([0-9a-f]{4}|\+[0-9a-f]{6})/gi, character)
  if (plain !== undefined) return plain.replaceAll("''", "'")
  // Names of tables and columns are the shape of the data; one with spaces or signs may have been made from a value.
  if (name !== undefined) return /^\w*$/.test(name) ? undefined : name.replaceAll('""', '"')
  return line?.trim() ?? block?.trim() ?? body ?? number
}

function character(_: string, hex: string): string {
  const code = Number.parseInt(hex.replace('+', ''), 16)
  return code <= 0x10ffff ? String.fromCodePoint(code) : ''
}

const CONTROL: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }

function unescaped(text: string): string {
  return text.replaceAll(
    /\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|x([0-9a-f]{1,2})|([0-7]{1,3})|([\s\S]))/gi,
    (all, four?: string, eight?: string, two?: string, octal?: string, one?: string) => {
      if (one !== undefined) return CONTROL[one] ?? one
      return character(all, four ?? eight ?? two ?? Number.parseInt(octal as string, 8).toString(16))
    },
  )
}

/** Adjacent words of a name or an address within a longer text. */
const WORDS = 6

/** Of a text longer than a page, only this much is examined in parts. */
const LONGEST = 20_000

/**
 * A text and what it can contain: elements of an array or a list, values of a document, adjacent words, and single words with
 * more than letters. A single plain word says too little, because every language has it.
 */
export function partsOf(texts: readonly string[]): string[] {
  const found = new Set(texts)
  for (const text of texts) {
    const some = text.slice(0, LONGEST)
    for (const part of some.split(/[{}[\]"'`,:;()|=<>\\\n\r\t]+/)) found.add(part.trim())
    const words = [...some.matchAll(/[\p{L}\p{N}+](?:[^\s"'`,:;()|=<>\\{}[\]]*[\p{L}\p{N}])?/gu)]
    words.forEach(({ 0: word, index }, at) => {
      if (/[^\p{L}]/u.test(word)) found.add(word)
      for (const last of words.slice(at + 1, at + WORDS)) found.add(some.slice(index, last.index + last[0].length))
    })
  }
  found.delete('')
  return [...found]
}
