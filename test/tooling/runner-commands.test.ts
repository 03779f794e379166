import { describe, expect, test } from 'vitest'
import {
  type Annotation,
  type CommandTarget,
  commandReader,
  Masker,
  parseEntries,
} from '../../rehearsal/runner/commands.ts'

interface Seen {
  lines: string[]
  annotations: Annotation[]
  outputs: Record<string, string>
  masked: string[]
  env: Record<string, string>
  failed: boolean
}

/** Feeds lines to a new reader. Lines that are not commands appear unchanged in `seen.lines`. */
function feed(lines: string[], env: Record<string, string> = {}): Seen {
  const seen: Seen = { lines: [], annotations: [], outputs: {}, masked: [], env: {}, failed: false }
  const target: CommandTarget = {
    workspace: '/ws',
    env: (name) => env[name],
    echo: false,
    output: (text) => seen.lines.push(text),
    debug: (text) => seen.lines.push(`debug ${text}`),
    annotate: (annotation) => seen.annotations.push(annotation),
    mask: (value) => seen.masked.push(value),
    setOutput: (name, value) => {
      seen.outputs[name] = value
    },
    saveState: () => {},
    setEnv: (name, value) => {
      seen.env[name] = value
    },
    addPath: () => {},
    fail: () => {
      seen.failed = true
    },
  }
  const read = commandReader(target)
  for (const line of lines) if (!read(line)) seen.lines.push(line)
  return seen
}

describe('workflow commands', () => {
  test('turns an error with file, line and title into an annotation, and decodes its escapes once', () => {
    const { annotations, lines } = feed([
      '  ::ERROR file=/ws/a/b.ts,line=3,col=5,title=x%2Cy%3A%250A::50%25 of%0Ait %2C',
    ])
    expect(annotations).toEqual([
      { level: 'error', message: '50% of\nit %2C', title: 'x,y:%0A', file: 'a/b.ts', line: 3, col: 5 },
    ])
    expect(lines).toEqual([])
  })

  test.each([
    ['endLine=4', { line: 4, endLine: 4 }],
    ['line=4,endLine=3', {}],
    ['col=2', {}],
    ['line=1,endLine=2,col=3', { line: 1, endLine: 2 }],
    ['line=1,col=3,endColumn=2', { line: 1 }],
    ['line=x', {}],
  ])('drops invalid positions: %s', (properties, position) => {
    expect(feed([`::notice ${properties}::m`]).annotations).toEqual([{ level: 'notice', message: 'm', ...position }])
  })

  test('treats a command that is unknown, incomplete or not at the start of its line as output', () => {
    const lines = ['x ::error::no', '##[error]old', '::nonsense::x', '::error no end', 'http://[::1]::x', '']
    expect(feed(lines)).toMatchObject({ lines, annotations: [], failed: false })
  })

  test('handles groups, masks and debug lines', () => {
    const seen = feed(['::group::A%0A', 'in', '::endgroup::', '::add-mask::s3cret', '::add-mask:: ', '::debug::d'])
    expect(seen.lines).toEqual(['##[group]A\n', 'in', '##[endgroup]', 'debug d'])
    expect(seen.masked).toEqual(['s3cret'])
    expect(seen.annotations.map(({ level }) => level)).toEqual(['warning'])
  })

  test('stop-commands is in effect until its token, which is masked', () => {
    const seen = feed(['::stop-commands::tok3n-x', '::error::no', '::TOK3N-x::', '::error::yes'])
    expect(seen.lines).toEqual(['::stop-commands::tok3n-x', '::error::no', '::TOK3N-x::'])
    expect(seen.masked).toEqual(['tok3n-x'])
    expect(seen.annotations.map(({ message }) => message)).toEqual(['yes'])
  })

  test.each(['', 'pause-logging', 'Error'])('refuses the stop token %j', (token) => {
    expect(() => feed([`::stop-commands::${token}`])).toThrow(/token/)
    feed([`::stop-commands::${token}`], { ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS: 'true' })
  })

  test('echo shows commands that are otherwise hidden', () => {
    const seen = feed([
      '::set-output name=a::0',
      '::echo::on',
      '::set-output name=a::1',
      '::add-mask::x',
      '::echo::Off',
    ])
    expect(seen.lines).toEqual(['::set-output name=a::1', '::add-mask::***', '::echo::Off'])
    expect(feed(['::echo::maybe'])).toMatchObject({ failed: true })
  })

  test('set-output still works with a warning, and fails the step without a name', () => {
    const seen = feed(['::set-output name=a=b,c=d::v'])
    expect(seen.outputs).toEqual({ 'a=b': 'v' })
    expect(seen.annotations[0]?.message).toMatch(/`set-output` command is deprecated/)
    const bad = feed(['::set-output::v'])
    expect(bad.failed).toBe(true)
    expect(bad.annotations.map(({ message }) => message).slice(1)).toEqual([
      "Unable to process command '::set-output::v' successfully.",
      "Required field 'name' is missing in ##[set-output] command.",
    ])
  })

  test('set-env and add-path are disabled unless the environment allows them, and never set NODE_OPTIONS', () => {
    expect(feed(['::set-env name=A::1', '::add-path::/x'])).toMatchObject({ failed: true, env: {} })
    const seen = feed(['::set-env name=A::1', '::set-env name=node_options::1'], {
      ACTIONS_ALLOW_UNSECURE_COMMANDS: 'TRUE',
    })
    expect(seen).toMatchObject({ failed: false, env: { A: '1' } })
    expect(seen.annotations[0]?.message).toMatch(/node_options/)
  })

  test('refuses problem matchers', () => {
    expect(feed(['::add-matcher::x.json'])).toMatchObject({ failed: true })
  })
})

describe('files of entries', () => {
  test.each([
    ['a=1\nb==2=\n\nc=', { a: '1', b: '=2=', c: '' }],
    ['a<<E\nx\n\ny=<<E\nE\nb=2\n', { a: 'x\n\ny=<<E', b: '2' }],
    ['a<<E\nE', { a: '' }],
    ['a<<E\n\nE\n', { a: '' }],
    ['a<<E\n\n\nE\n', { a: '\n' }],
    ['a=<<E\n', { a: '<<E' }],
    ['a<<x=y\n1\nx=y\n', { a: '1' }],
    ['\uFEFFa=1\r\n', { a: '1\r' }],
    ['', {}],
  ])('%j', (text, expected) => {
    expect(Object.fromEntries(parseEntries(text))).toEqual(expected)
  })

  test.each([
    ['plain', "Invalid format 'plain'"],
    ['<<E\nE\n', "Invalid format '<<E'. Name must not be empty and delimiter must not be empty"],
    ['a<<\n', "Invalid format 'a<<'. Name must not be empty and delimiter must not be empty"],
    ['a<<E\nx\n', "Invalid value. Matching delimiter not found 'E'"],
    ['a<<E\nx', 'Invalid value. EOF marker missing new line.'],
  ])('%j is an error after the entries before it', (text, message) => {
    const seen: string[] = []
    const read = () => {
      for (const [name] of parseEntries(`first=1\n${text}`)) seen.push(name)
    }
    expect(read).toThrow(message)
    expect(seen).toEqual(['first'])
  })
})

describe('masks', () => {
  const masker = new Masker()
  masker.add('pa"ss w&rd')
  masker.add('first line\r\n  second\n')

  test.each([
    ['x pa"ss w&rd y', 'x *** y'],
    ['first line', '***'],
    ['a second b', 'a *** b'],
    ['pa"ss w&rdpa"ss w&rd', '***'],
    [encodeURIComponent('pa"ss w&rd'), '***'],
    [JSON.stringify({ p: 'pa"ss w&rd' }), '{"p":"***"}'],
    ['pa&quot;ss w&amp;rd', '***'],
    ['pa"ss', 'pa"ss'],
    ['', ''],
  ])('%j', (text, masked) => {
    expect(masker.mask(text)).toBe(masked)
  })

  test('masks base64 of a text that contains the value at any offset', () => {
    for (const before of ['', 'u', 'us']) {
      const text = Buffer.from(`${before}first line`).toString('base64')
      expect(masker.holds(text)).toBe(true)
    }
  })

  test('masks overlapping secrets completely', () => {
    const two = new Masker()
    two.add('abcd')
    two.add('cdef')
    expect(two.mask('-abcdef-')).toBe('-***-')
  })
})
