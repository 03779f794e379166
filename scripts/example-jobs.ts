/** `examples/migrate-jobs.yml`: the jobs of migrate.yml for those who cannot call it, with the actions by repository and commit. */
export function exampleJobs(migrate: string): string {
  const [, rest = ''] = migrate.split(/\n(?=name: Migrate\n)/)
  const dispatch = rest.replace(/\n {2}workflow_call:\n[\s\S]*?(?=\npermissions: \{\}\n)/, '\n')
  const actions = dispatch.replace(/uses: \$\/actions\/(\S+)/g, `uses: OWNER/REPO/actions/$1@${'0'.repeat(40)}`)
  return [
    '# Generated from .github/workflows/migrate.yml by `npm run build`; edit that.',
    '# Copy to .github/workflows/migrate.yml of your repository, and replace OWNER/REPO and the commit. For repositories',
    '# outside of the organisation of OWNER/REPO, where `secrets: inherit` does not reach.',
    actions,
  ].join('\n')
}
