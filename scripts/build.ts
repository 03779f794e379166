/**
 * Builds dist/ and generates every actions/<name>/action.yml, the tables in the READMEs, and the config file's JSON
 * Schema. `--check` builds in memory and fails if the committed files differ.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { gzipSync } from 'node:zlib'
import { build, type Plugin, transform } from 'esbuild'
import packageJson from '../package.json' with { type: 'json' }
import { specs } from '../src/actions/specs.ts'
import { decisionsSchema } from '../src/conversion/decisions.ts'
import { reportSchema, rulesDocs } from '../src/conversion/report.ts'
import { rulesJsonSchema } from '../src/masking/rules.ts'
import { verifySchema } from '../src/report/verify-json.ts'
import type { Phase } from '../src/runtime/action.ts'
import { CODES, type Explanation } from '../src/runtime/codes.ts'
import { isRefusal } from '../src/runtime/refusals.ts'
import { checksDocs, preflightSchema } from './checks-docs.ts'
import { troubleshootingDocs } from './codes-docs.ts'
import { withConformance } from './conformance-docs.ts'
import { exampleComposite, exampleJobs, exampleRehearsal } from './example-jobs.ts'
import { likeServerDocs } from './like-server-docs.ts'
import { actionYaml, configSchema, readme } from './metadata.ts'

/** Path → content of every generated file. */
async function generate(): Promise<Map<string, string>> {
  const files = new Map<string, string>()
  files.set('dist/molt-actions.cjs', await bundle())
  files.set('dist/package.json', '{ "type": "commonjs" }\n')
  for (const spec of specs) {
    files.set(`dist/${spec.name}.cjs`, entry(spec.name, 'run'))
    if (spec.post) files.set(`dist/${spec.name}-post.cjs`, entry(spec.name, 'post'))
    files.set(`actions/${spec.name}/action.yml`, actionYaml(spec))
    const path = `actions/${spec.name}/README.md`
    files.set(path, readme(spec, existsSync(path) ? readFileSync(path, 'utf8') : undefined))
  }
  for (const tool of ['molt', 'replicator'])
    files.set(`dist/stand-in-${tool}.cjs`, `require('./molt-actions.cjs').standIn('${tool}')\n`)
  files.set('docs/config.schema.json', configSchema(specs))
  files.set('docs/verify.schema.json', verifySchema())
  files.set('docs/checks.md', checksDocs())
  files.set('docs/like-server.md', likeServerDocs())
  files.set('docs/not-exercised.md', withConformance(readFileSync('docs/not-exercised.md', 'utf8')))
  files.set('docs/troubleshooting.md', troubleshootingDocs())
  files.set('docs/preflight.schema.json', preflightSchema())
  files.set('docs/mask.schema.json', rulesJsonSchema())
  const caller = readFileSync('examples/migrate-caller.yml', 'utf8')
  files.set('examples/migrate-jobs.yml', exampleJobs(readFileSync('.github/workflows/migrate.yml', 'utf8'), caller))
  files.set('examples/action.yml', exampleComposite(readFileSync('action.yml', 'utf8')))
  files.set('docs/convert.schema.json', decisionsSchema())
  files.set('docs/convert-report.schema.json', reportSchema())
  files.set('docs/conversion-rules.md', rulesDocs())
  files.set('examples/rehearse.yml', exampleRehearsal(readFileSync('.github/workflows/rehearse.yml', 'utf8')))
  return files
}

/** Entry point that prints the version and the action's name before it loads a megabyte of code. */
function entry(name: string, phase: Phase): string {
  const line = `molt-actions ${packageJson.version}: ${name}${phase === 'post' ? ' (post)' : ''}\\n`
  return `require('node:fs').writeSync(1, '${line}')\nrequire('./molt-actions.cjs').main('${name}', '${phase}')\n`
}

/** Minifies dependencies: nobody needs their stack frames, and `dist` has a size limit. */
const shortenDependencies: Plugin = {
  name: 'shorten-dependencies',
  setup(build) {
    build.onLoad({ filter: /node_modules\/.*\.c?js$/ }, async ({ path }) => {
      const { code } = await transform(readFileSync(path, 'utf8'), { minify: true, legalComments: 'none' })
      return { contents: code, loader: 'js' }
    })
  },
}

/**
 * Drops explanations of error codes that only the documentation uses. An action prints the next step and, for errors
 * from servers, the whole explanation.
 */
const printedExplanations: Plugin = {
  name: 'printed-explanations',
  setup(build) {
    build.onLoad({ filter: /src\/runtime\/codes\.ts$/ }, () => {
      const printed: Record<string, Partial<Explanation>> = {}
      for (const [code, explanation] of Object.entries<Explanation>(CODES)) {
        const { next } = explanation
        if (isRefusal(code)) printed[code] = explanation
        else if (next) printed[code] = { next }
      }
      return { contents: `export const CODES = ${JSON.stringify(printed)}`, loader: 'js' }
    })
  },
}

/** Bundles uPlot as text, to be inlined in pages, because the bundle cannot read it from its package. */
const inlineChartLibrary: Plugin = {
  name: 'inline-chart-library',
  setup(build) {
    build.onLoad({ filter: /src\/report\/dossier\/uplot\.ts$/ }, async () => {
      const { script, style } = await import('../src/report/dossier/uplot.ts')
      const packed = Object.entries({ script, style }).map(([name, text]) => {
        const base64 = gzipSync(text, { level: 9 }).toString('base64')
        return `export const ${name} = gunzipSync(Buffer.from('${base64}', 'base64')).toString()`
      })
      return { contents: ["import { gunzipSync } from 'node:zlib'", ...packed].join('\n'), loader: 'js' }
    })
  },
}

async function bundle(): Promise<string> {
  const result = await build({
    entryPoints: ['src/main.ts'],
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    legalComments: 'none',
    minify: true,
    // Functions and classes keep their names, for readable stack traces in a user's log.
    keepNames: true,
    plugins: [shortenDependencies, printedExplanations, inlineChartLibrary],
    logLevel: 'error',
    // Leaves out pg's native driver and Cloudflare's sockets, which are never used here.
    alias: { undici: './scripts/no-undici.ts' },
    external: ['pg-native', 'pg-cloudflare'],
    // Node 20 has no `navigator`. Without one, pg's check for Cloudflare makes Node load its fetch.
    define: { navigator: '{ "userAgent": "Node.js" }' },
    logOverride: { 'empty-import-meta': 'silent' },
  })
  return result.outputFiles[0]?.text as string
}

function stale(files: Map<string, string>): string[] {
  const changed = [...files].filter(([path, content]) => !existsSync(path) || readFileSync(path, 'utf8') !== content)
  const extra = readdirSync('dist')
    .map((name) => `dist/${name}`)
    .filter((path) => !files.has(path))
  return [...changed.map(([path]) => path), ...extra]
}

const files = await generate()
if (process.argv.includes('--check')) {
  const paths = stale(files)
  if (paths.length) {
    console.error(`stale: ${paths.join(', ')}. Run \`npm run build\` and commit the result`)
    process.exit(1)
  }
  console.log(`${files.size} generated files are up to date`)
} else {
  rmSync('dist', { recursive: true, force: true })
  for (const [path, content] of files) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, content)
  }
  const size = [...files]
    .filter(([path]) => path.startsWith('dist/'))
    .reduce((sum, [, content]) => sum + content.length, 0)
  console.log(`${files.size} files; dist is ${(size / 1e6).toFixed(2)} MB`)
}
