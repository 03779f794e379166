import { isSecret } from './secrets.ts'

/**
 * Characters that a terminal or log viewer interprets: control characters, unusual line breaks, and marks that change
 * the text direction.
 */
const ACTED_ON = /(?!\r?\n|\t)\p{Cc}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu

/** Makes external text safe to print by replacing each of these characters with U+FFFD. */
export function shown(text: string): string {
  return text.replace(ACTED_ON, '\ufffd')
}

/** The runner commands that we print ourselves. Each is at the start of a write. */
const OURS = /^::(?:(?:debug|notice|warning|error|group)(?: [^:\n]*)?::|endgroup::\n|add-mask::(.*)\n)/

/**
 * Prevents external names and texts from acting as runner commands. The runner interprets `::name::` at the start of a
 * line, after any white space, and `##[name]` anywhere.
 */
function withoutCommands(text: string): string {
  const [own, mask] = OURS.exec(text) ?? []
  const isOurs = own !== undefined && (mask === undefined || isSecret(unescaped(mask)))
  const [first = '', ...rest] = text.replaceAll('##[', '# #[').split('\n')
  const quiet = (line: string) => line.replace(/^(\s*)::/, '$1: :')
  return [isOurs ? first : quiet(first), ...rest.map(quiet)].join('\n')
}

function unescaped(data: string): string {
  return data.replaceAll('%0D', '\r').replaceAll('%0A', '\n').replaceAll('%25', '%')
}

/**
 * Filters standard output, so that external text cannot act as a runner command or an escape sequence.
 * @returns a function that removes the filter
 */
export function guardOutput(): () => void {
  const { write } = process.stdout
  process.stdout.write = ((text: string | Uint8Array, ...more: []) =>
    write.call(process.stdout, typeof text === 'string' ? shown(withoutCommands(text)) : text, ...more)) as typeof write
  return () => {
    process.stdout.write = write
  }
}
