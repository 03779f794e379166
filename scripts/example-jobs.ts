import { parse } from 'yaml'

/** Placeholders that users replace with their repository and commit. */
const PLACEHOLDER = { repository: 'OWNER/REPO', commit: '0'.repeat(40) }

/** Names actions by repository and commit, which every runner and GitHub Enterprise Server supports. */
const OURS = (text: string) =>
  text
    .replace(/uses: \$\/actions\/(\S+)/g, `uses: ${PLACEHOLDER.repository}/actions/$1@${PLACEHOLDER.commit}`)
    .replace(/uses: \.\/.*/g, `uses: ${PLACEHOLDER.repository}@${PLACEHOLDER.commit}`)

/**
 * `examples/migrate-jobs.yml`: combines the form of migrate-caller.yml with the jobs of migrate.yml, for repositories
 * that cannot call migrate.yml. Literals that the caller passes become literals in the jobs, so the form cannot change
 * them.
 */
export function exampleJobs(migrate: string, caller: string): string {
  const form = caller.slice(caller.indexOf('name: Migrate\n'), caller.indexOf('\njobs:\n'))
  const { jobs } = parse(caller) as { jobs: { migrate: { with: Record<string, string> } } }
  const literals = Object.entries(jobs.migrate.with).filter(([, value]) => !value.includes('${{'))
  const text = literals.reduce(
    (rest, [name, value]) => {
      const literal = /^\d+$/.test(value) ? JSON.stringify(value) : value
      return rest.replaceAll(`\${{ inputs.${name} }}`, literal)
    },
    migrate.slice(migrate.indexOf('\njobs:\n')),
  )
  return [
    '# Generated from .github/workflows/migrate.yml and examples/migrate-caller.yml by `npm run build`. Edit the source instead.',
    '# Copy to .github/workflows/migrate.yml in your repository, and replace OWNER/REPO and the commit. Use this file outside',
    '# the organization of OWNER/REPO, on GitHub Enterprise Server, and on runners before 2.336.',
    form + OURS(text),
  ].join('\n')
}

/** `examples/rehearse.yml`: the rehearsal on real servers, for a user's repository. */
export function exampleRehearsal(rehearse: string): string {
  const [, rest = ''] = rehearse.split(/\n(?=name: Rehearse\n)/)
  const real = rest
    .replace('inputs.variant || ', '')
    .replace(/\n {4}inputs:\n[\s\S]*?(?=\n {2}schedule:)/, '')
    .replace(/\n {2}embedded:\n[\s\S]*?(?=\n {2}real:)/, '')
    .replace("inputs.variant != 'embedded' && (", '')
    .replace('default_branch) }}', 'default_branch }}')
    .replaceAll('examples/', '')
  return [
    '# Generated from .github/workflows/rehearse.yml by `npm run build`. Edit the source instead.',
    '# Copy to .github/workflows/rehearse.yml in your repository, copy the folder rehearsal/ to its root, and replace',
    '# OWNER/REPO, the commit and the digests. It rehearses the plan of molt-actions.yml, the config file of your migration.',
    OURS(real),
  ].join('\n')
}

/** `examples/action.yml`: the root action with its parts named by repository and commit, for runners without `$/`. */
export function exampleComposite(root: string): string {
  return [
    '# Generated from action.yml by `npm run build`. Edit the source instead.',
    '# The root action for GitHub Enterprise Server and for runners before 2.336, which do not support `$/`. Copy it to',
    '# .github/actions/molt/action.yml in your repository, replace OWNER/REPO and the commit, and use ./.github/actions/molt',
    '# instead of OWNER/REPO.',
    OURS(root),
  ].join('\n')
}
