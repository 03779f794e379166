const OURS = (text: string) =>
  text
    .replace(/uses: \$\/actions\/(\S+)/g, `uses: OWNER/REPO/actions/$1@${'0'.repeat(40)}`)
    .replace(/uses: \.\/.*/g, `uses: OWNER/REPO@${'0'.repeat(40)}`)

/** `examples/migrate-jobs.yml`: the jobs of migrate.yml for those who cannot call it, with the actions by repository and commit. */
export function exampleJobs(migrate: string): string {
  const [, rest = ''] = migrate.split(/\n(?=name: Migrate\n)/)
  const dispatch = rest.replace(/\n {2}workflow_call:\n[\s\S]*?(?=\npermissions: \{\}\n)/, '\n')
  return [
    '# Generated from .github/workflows/migrate.yml by `npm run build`; edit that.',
    '# Copy to .github/workflows/migrate.yml of your repository, and replace OWNER/REPO and the commit. For repositories',
    '# outside of the organisation of OWNER/REPO, where `secrets: inherit` does not reach.',
    OURS(dispatch),
  ].join('\n')
}

/** `examples/rehearse.yml`: the rehearsal on real servers, for the repository of a user. */
export function exampleRehearsal(rehearse: string): string {
  const [, rest = ''] = rehearse.split(/\n(?=name: Rehearse\n)/)
  const real = rest
    .replace('inputs.variant || ', '')
    .replace(/\n {4}inputs:\n[\s\S]*?(?=\n {2}schedule:)/, '')
    .replace(/\n {2}embedded:\n[\s\S]*?(?=\n {2}real:)/, '')
    .replace("inputs.variant != 'embedded' && (", '')
    .replace('== github.repository) }}', '== github.repository }}')
    .replaceAll('examples/', '')
  return [
    '# Generated from .github/workflows/rehearse.yml by `npm run build`; edit that.',
    '# Copy to .github/workflows/rehearse.yml of your repository, with the folder rehearsal/ beside it, and replace OWNER/REPO',
    '# and the commit. `molt-actions.yml` is the config file that your migration has: its plan is what is rehearsed.',
    OURS(real),
  ].join('\n')
}
