/**
 * Prints the imports between the folders of `src/` with their counts. Fails on an upward import, on a cycle of folders,
 * phases or files, and on an action that imports another action's `run.ts`. `--quiet` prints only problems.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** From top to bottom. A folder imports only from its own layer or a lower one. CONTRIBUTING.md has the same list. */
const FLOORS = [
  ['main', 'actions'],
  ['phases', 'checks', 'conversion'],
  ['ledger', 'destination', 'source', 'masking'],
  ['sql', 'tools', 'report'],
  ['model', 'runtime'],
]

/** The only import from outside `src/`: the bundle contains the stand-in for MOLT's programs. */
const OUTSIDE = new Set(['main → rehearsal'])

interface Import {
  file: string
  /** Path from the repository's root. */
  target: string
}

function importsOf(file: string): Import[] {
  const code = readFileSync(file, 'utf8')
  const found = code.matchAll(/(?:\bfrom|\bimport|\bimport\()\s*'(\.[^']+)'/g)
  return [...found].map(([, path]) => ({ file, target: join(dirname(file), path as string) }))
}

/** `src/phases/stream/watch.ts` is in `phases`; `src/main.ts` is `main`; `rehearsal/molt/pg.ts` is in `rehearsal`. */
function folderOf(path: string): string {
  const parts = path.split('/')
  if (parts[0] !== 'src') return parts[0] as string
  return (parts[1] as string).replace(/\.ts$/, '')
}

function floorOf(folder: string): number {
  return FLOORS.findIndex((floor) => floor.includes(folder))
}

/** The first cycle in a graph, as a path that ends where it starts. */
function circle(edges: Map<string, Set<string>>): string[] | undefined {
  const done = new Set<string>()
  const visit = (node: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node]
    if (done.has(node)) return undefined
    for (const next of edges.get(node) ?? []) {
      const found = visit(next, [...path, node])
      if (found) return found
    }
    done.add(node)
    return undefined
  }
  for (const node of edges.keys()) {
    const found = visit(node, [])
    if (found) return found
  }
  return undefined
}

function graph(imports: readonly Import[], nodeOf: (path: string) => string): Map<string, Set<string>> {
  const edges = new Map<string, Set<string>>()
  for (const { file, target } of imports) {
    const [from, to] = [nodeOf(file), nodeOf(target)]
    if (from !== to) edges.set(from, (edges.get(from) ?? new Set()).add(to))
  }
  return edges
}

const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
const imports = files.sort().flatMap((file) => importsOf(join('src', file)))
const arrows = new Map<string, Import[]>()
for (const each of imports) {
  const [from, to] = [folderOf(each.file), folderOf(each.target)]
  if (from !== to) arrows.set(`${from} → ${to}`, [...(arrows.get(`${from} → ${to}`) ?? []), each])
}

const quiet = process.argv.includes('--quiet')
const problems: string[] = []
for (const [arrow, which] of [...arrows].sort(([a], [b]) => a.localeCompare(b))) {
  const [from, to] = arrow.split(' → ') as [string, string]
  const upward = floorOf(to) < floorOf(from) || floorOf(from) < 0
  const wrong = !OUTSIDE.has(arrow) && (upward || floorOf(to) < 0)
  if (!quiet) console.log(`${arrow}  ${which.length}`)
  if (wrong) problems.push(...which.map(({ file, target }) => `${file} imports ${target}: ${arrow} goes up`))
}
for (const { file, target } of imports) {
  const [, , action] = file.split('/')
  const [, folder, other, name] = target.split('/')
  if (file.startsWith('src/actions/') && folder === 'actions' && name === 'run.ts' && other !== action)
    problems.push(`${file} imports ${target}: an action must not import another action's run.ts`)
}
const folders = circle(graph(imports, folderOf))
if (folders) problems.push(`cycle of folders: ${folders.join(' → ')}`)
// Only folders of phases: outside them, an action and the list of all actions may import each other.
const phases = imports.filter(({ file, target }) => [file, target].every((path) => path.startsWith('src/phases/')))
const within = circle(graph(phases, dirname))
if (within) problems.push(`cycle of phases: ${within.join(' → ')}`)
const modules = circle(graph(imports, (path) => path))
if (modules) problems.push(`cycle of files: ${modules.join(' → ')}`)

console.log(`${arrows.size} imports between folders, ${problems.length} break the rule`)
for (const problem of problems) console.error(problem)
process.exitCode = problems.length ? 1 : 0
