// Replaces `gh` for a release. A JSON file with GitHub's REST fields contains the repository's runs and releases.
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'

const { GH_STATE = '', GH_TOKEN } = process.env
if (!GH_TOKEN) throw new Error('gh: set the GH_TOKEN environment variable')
const args = process.argv.slice(2)
const state = JSON.parse(readFileSync(GH_STATE, 'utf8'))
const after = (flag) => args[args.indexOf(flag) + 1]
const release = (tag) => {
  const found = state.releases.find(({ tag_name }) => tag_name === tag)
  if (!found) throw new Error(`gh: release not found: ${tag}`)
  return found
}

function create(tag) {
  const files = args.slice(args.indexOf('--notes-file') + 2)
  const digest = (file) => `sha256:${createHash('sha256').update(readFileSync(file)).digest('hex')}`
  state.releases.push({
    tag_name: tag,
    target_commitish: after('--target'),
    name: after('--title'),
    draft: args.includes('--draft'),
    immutable: false,
    body: readFileSync(after('--notes-file'), 'utf8'),
    assets: files.map((file) => ({ name: basename(file), digest: digest(file), state: 'uploaded' })),
  })
}

/** Publishes as GitHub does with immutable releases: fixes the release and creates its tag. */
function publish(tag) {
  Object.assign(release(tag), { draft: !args.includes('--draft=false'), immutable: state.immutableReleases })
}

/** Answers `gh api` with the filter that the workflow passes as `--jq`. */
function api(path) {
  const [, tag] = /(?:commits|tags)\/(v.*)$/.exec(path) ?? []
  if (path.includes('/commits/')) return state.tags?.[tag] ?? release(tag).target_commitish
  if (tag) return release(tag).immutable
  const [, wanted] = /select\(\.tag_name == "(.*)"\)/.exec(after('--jq'))
  return state.releases
    .filter(({ tag_name }) => tag_name === wanted)
    .map((each) => JSON.stringify(each))
    .join('\n')
}

const [group, command, name] = args
if (group === 'run') console.log(state.greenRuns.filter((sha) => sha === after('--commit')).length)
else if (group === 'api') console.log(api(args.find((arg) => arg.startsWith('repos/'))))
else if (command === 'create') create(name)
else if (command === 'edit') publish(name)
else throw new Error(`gh: unknown command ${args.join(' ')}`)
writeFileSync(GH_STATE, JSON.stringify(state))
