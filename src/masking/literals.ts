/**
 * Matches the parts of SQL that can contain text. Also matches words, so that a dollar sign in `a$b$c` does not start a
 * quote.
 */
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
 * All texts in SQL, unquoted: literals of every kind, comments, long numbers, and unusual names. Quoted text can be SQL
 * itself, such as a function's body, so it is searched as well.
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
  // Names of tables and columns are not data, but a name with spaces or punctuation may have been made from a value.
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

/** Maximum number of adjacent words that are searched together, as in a name or an address. */
const WORDS = 6

/** Maximum number of characters of a text to split into parts. The rest of a longer text is not split. */
const LONGEST = 20_000

/**
 * Each text and its parts: elements of an array or a list, values of a document, adjacent words, and single words that
 * contain a digit or a symbol. A single plain word is too common to identify a person.
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
