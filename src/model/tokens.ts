/** A token of an SQL text. `other` is any other single character, such as a parenthesis. */
export interface Token {
  kind: 'space' | 'string' | 'quoted' | 'number' | 'word' | 'cast' | 'operator' | 'other'
  text: string
}

const TOKEN =
  /(?<space>\s+)|(?<string>e'(?:[^'\\]|''|\\[\s\S])*'|[bx]?'(?:[^']|'')*')|(?<quoted>"(?:[^"]|"")*")|(?<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)|(?<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)|(?<cast>:::?)|(?<operator>[-+*/<>=~!@#%^&|`?]+)|(?<other>[\s\S])/gi

/** Splits SQL text into tokens, which add up to the original text. A backslash escapes only within `e'…'`. */
export function tokens(sql: string): Token[] {
  return [...sql.matchAll(TOKEN)].map(({ groups = {} }) => {
    const [kind, text] = Object.entries(groups).find(([, value]) => value !== undefined) as [Token['kind'], string]
    return { kind, text }
  })
}
