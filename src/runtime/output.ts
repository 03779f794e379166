import { isSecret } from './secrets.ts'

/** What a terminal or a log viewer acts on: control characters, line ends of other kinds, marks that turn the direction of text. */
const ACTED_ON = /(?!\r?\n|\t)\p{Cc}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu

/** A text of others, fit to be shown: what would be acted on is a replacement character. */
export function shown(text: string): string {
  return text.replace(ACTED_ON, '\ufffd')
}

/** The commands that we give the runner, each a line and a write of its own. */
const OURS = /^::(?:(?:debug|notice|warning|error|group)(?: [^:\n]*)?::|endgroup::\n|add-mask::(.*)\n)/

/**
 * Keeps names and texts of others from being commands to the runner, wherever they stand in what we write.
 * Source: the runner reads `::name::` at the begin of a line, white space before it aside, and `##[name]` anywhere.
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
 * Lets nothing onto the standard output that would be taken for a command or an escape sequence.
 * @returns ends that
 */
export function guardOutput(): () => void {
  const { write } = process.stdout
  process.stdout.write = ((text: string | Uint8Array, ...more: []) =>
    write.call(process.stdout, typeof text === 'string' ? shown(withoutCommands(text)) : text, ...more)) as typeof write
  return () => {
    process.stdout.write = write
  }
}
