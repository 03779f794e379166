/** Finds phrases that the style guide retires in code, tests and docs. Exits with 1 if there are any. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

interface Rule {
  name: string
  pattern: RegExp
  /** The replacement. */
  instead: string
}

/** Retired words and idioms. */
const RULES: Rule[] = [
  rule(
    'go-on',
    /\b(go|goes|gone|going|went|carry|carries|carried) on with\b|\bcarries on\b|\bgo on\b/,
    'resume, continue',
  ),
  rule('put-right', /\bput(s|ting)? (\w+ )?right\b/, 'correct, fix'),
  rule('say-setting', /\bsay(s)? `/, 'Set `…`'),
  rule('somebody', /\bsomebody\b|\bnobody knows\b/, 'the thing itself; someone only for a person'),
  rule(
    'told',
    /\b(be|is|are|was|were|cannot be|can be) told\b|\btell(s)? \w+ from\b|\btell(s)? apart\b|\buntold\b/,
    'shown, reported, known; unchecked',
  ),
  rule('for-ever', /\bfor (ever|certain)\b/, 'forever, permanently; enforced, certain'),
  rule('without-a-word', /\bwithout a word\b|\bnot a word\b/, 'silently'),
  rule('last-words', /\blast words\b/, 'last line'),
  rule('anew', /\banew\b|\bafresh\b/, 'again'),
  rule('take-away', /\btak(e|es|en|ing) (\w+ )?away\b/, 'remove'),
  rule('there-is-not', /\bthat there (is|are) not\b|\bthat there (is|are)\b/, 'that exists'),
  rule('as-it-must-be', /\b(as|what) it (must|should) be\b|\bwhat it was\b|\bas it was\b/, 'damaged, changed'),
  rule('refuses-to', /\brefuses to tell\b/, 'returned STATUS for …'),
  rule('reach-by-tls', /\breached by TLS\b/, 'TLS is (not) enforced'),
  rule('of-which', /(?<!\b(each|all|some|none|most|both|one) )\bof (which|whom)\b/, 'split the sentence'),
  rule('all-the-same', /\ball the same\b|\bin vain\b|\bin ways unknown\b/, 'anyway; without effect; unpredictably'),
  rule('bring-people', /\bbring people into\b|\bsomebody may be in\b/, 'leak personal data into'),
  rule('prolong', /\bprolong(s|ed|ing)?\b/i, 'renew'),
  rule('silence', /\bsilence\b|\bnothing was heard\b/i, 'stall'),
  rule('trouble', /\btroubles?\b|\bculprits?\b/i, 'diagnosis'),
  rule('unsettled', /\bunsettled (row|rows|result|verify|comparison)\b/i, 'inconclusive'),
  rule('sighting', /\bsightings?\b/i, 'observation'),
  rule('target-gate', /\btarget[- ]gate\b/i, 'write access'),
]

/** Maximum number of words in a sentence of a document. */
const LONGEST_SENTENCE = 40

const SCOPE =
  /^(src|rehearsal|scripts|test|docs|examples|bench)\/.*\.(ts|md|yml)$|^(README|CONTRIBUTING)\.md$|^action\.yml$|^\.github\/.*\.yml$/
/** Generated or recorded files, and this list itself. */
const SKIPPED =
  /^docs\/(checks|troubleshooting)\.md$|^test\/golden\/|^scripts\/prose\.ts$|^examples\/(migrate-jobs|rehearse)\.yml$/

interface Finding {
  file: string
  line: number
  rule: string
  text: string
  instead: string
}

function rule(name: string, pattern: RegExp, instead: string): Rule {
  return { name, pattern, instead }
}

function findingsIn(file: string): Finding[] {
  const text = readFileSync(file, 'utf8')
  const found = text.split('\n').flatMap((content, index) =>
    RULES.filter(({ pattern }) => pattern.test(content)).map(({ name, instead }) => ({
      file,
      line: index + 1,
      rule: name,
      text: content.trim().slice(0, 140),
      instead,
    })),
  )
  return file.endsWith('.md') ? [...found, ...longSentences(file, text)] : found
}

function longSentences(file: string, text: string): Finding[] {
  // Removes fenced code but keeps its line breaks, so that findings have the right line numbers.
  const prose = text.replaceAll(/```[\s\S]*?```/g, (code) => code.replaceAll(/[^\n]/g, ''))
  const found: Finding[] = []
  let line = 1
  for (const paragraph of prose.split(/(\n\s*\n|\n(?=\s*[-*|#]|\s*\d+\.))/)) {
    for (const sentence of paragraph.split(/(?<=[.!?:;|])\s/)) {
      const words = sentence.split(/\s+/).filter((word) => /\w/.test(word)).length
      if (words > LONGEST_SENTENCE)
        found.push({
          file,
          line,
          rule: 'long-sentence',
          text: `${words} words: ${sentence.trim().slice(0, 100)}`,
          instead: 'two sentences, or a list',
        })
    }
    line += paragraph.split('\n').length - 1
  }
  return found
}

const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { encoding: 'utf8' })
const files = tracked
  .split('\n')
  .filter((file) => SCOPE.test(file) && !SKIPPED.test(file) && existsSync(file))
  .sort()
const findings = files.flatMap(findingsIn)
for (const { file, line, rule, text, instead } of findings)
  console.error(`${file}:${line}: ${rule}: ${text}\n  write: ${instead}`)
console.log(`${findings.length} findings of retired phrasing in ${files.length} files`)
process.exitCode = findings.length ? 1 : 0
