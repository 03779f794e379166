/** Finds a secret or a customer's value in every form in which a program may repeat it. */
export type Places = Record<string, string>

/** A value unchanged, and with the escapes of URLs, base64, JSON, Go, shells and HTML. */
export function formsOf(value: string): Map<string, string> {
  const json = JSON.stringify(value).slice(1, -1)
  const forms: [string, string][] = [
    ['raw', value],
    ['URL', encodeURIComponent(value)],
    ['URL, sub-delimiters too', encodeURIComponent(value).replace(/[!'()*]/g, percent)],
    ['form', new URLSearchParams({ v: value }).toString().slice(2)],
    ['JSON', json],
    ['JSON in JSON', JSON.stringify(json).slice(1, -1)],
    ['Unicode escapes', json.replace(/[^ -~]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)],
    ['shell', value.replaceAll("'", `'\\''`)],
    ['SQL', value.replaceAll("'", "''")],
    ['HTML', value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')],
    ['a workflow command', value.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')],
    ['hex', Buffer.from(value).toString('hex')],
    ...base64Of(value),
  ]
  return new Map(forms)
}

function percent(char: string): string {
  return `%${char.charCodeAt(0).toString(16).toUpperCase()}`
}

/**
 * The three base64 forms that the value's bytes can have inside a longer text, without the characters that depend on
 * their neighbors.
 */
function base64Of(value: string): [string, string][] {
  return [0, 1, 2].map((shift) => {
    const encoded = Buffer.concat([Buffer.alloc(shift), Buffer.from(value)]).toString('base64')
    return [`base64, ${shift} bytes in`, encoded.slice(shift && shift + 1, -4)]
  })
}

/** `<form> of <value> in <place>` for each leak. */
export function leaks(places: Places, values: Record<string, string>): string[] {
  const found: string[] = []
  for (const [name, value] of Object.entries(values))
    for (const [form, text] of formsOf(value))
      for (const [place, content] of Object.entries(places))
        if (content.includes(text)) found.push(`${form} form of ${name} in ${place}`)
  return found
}
