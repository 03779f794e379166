import { CODES } from '../src/runtime/codes.ts'

/** Error messages from GitHub, which have no code. */
const GITHUB = `| text | why | what to do |
| --- | --- | --- |
| \`Expected format {org}/{repo}[/path]@ref. Actual '$/actions/…'\` | The runner is older than 2.336, or this is GitHub Enterprise Server. Neither supports \`$/\`. Runner 2.336 also prints this as an error annotation on steps that succeed, because it reads composite actions twice ([actions/runner#4706](https://github.com/actions/runner/issues/4706)). | Update the runner, or use [the files without \`$/\`](first-workflow.md#runners-without-). |
| \`Self-repository reference '$/…' was not resolved before LoadAction\` | The runner supports \`$/\`, but GitHub has not enabled it for this repository. | Use [the files without \`$/\`](first-workflow.md#runners-without-). |
| \`The nested job 'brief' is requesting 'attestations: read', but is only allowed 'attestations: none'\` | The caller grants less than the called workflow needs. | Grant the [permissions](permissions-and-costs.md#what-a-caller-must-grant) to the calling job. |`

/** docs/troubleshooting.md: every code with its meaning, cause and fix. */
export function troubleshootingDocs(): string {
  const codes = Object.entries(CODES)
  const topics = [...new Set(codes.map(([code]) => topicOf(code)))]
  const sections = topics.map((topic) => {
    const own = codes.filter(([code]) => topicOf(code) === topic)
    return `## ${topic}\n\n${own.map(describe).join('\n\n')}`
  })
  return `<!-- Generated from src/runtime/codes.ts by \`npm run build\`. Edit the source instead. -->
# Troubleshooting

Every error ends with its code in brackets, such as \`[fence.write-passed]\`. A failed step also sets the outputs
\`error-code\` and \`error-kind\`. Codes are stable; the text around them may change. Look up the code on this page.

## Errors from GitHub

${GITHUB}

${sections.join('\n\n')}
`
}

function topicOf(code: string): string {
  return code.split('.')[0] as string
}

function describe([code, { meaning, cause, fix }]: [string, (typeof CODES)[keyof typeof CODES]]): string {
  return `### \`${code}\`\n\n${meaning}\n\n- **Cause:** ${cause}\n- **Fix:** ${fix}`
}
