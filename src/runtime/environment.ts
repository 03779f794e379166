/** Everything of our environment that a child process may see. RUNNER_TRACKING_ID lets the runner find orphans. */
const INHERITED = [
  'PATH',
  'HOME',
  'TMPDIR',
  'TZ',
  'LANG',
  'SSL_CERT_FILE',
  'SSL_CERT_DIR',
  'RUNNER_TRACKING_ID',
] as const
const CLOUD = /^(AWS_|GOOGLE_|AZURE_|CLOUDSDK_)/

/** The environment of a child: what it needs to run and to reach a cloud, and none of our inputs or tokens. */
export function childEnvironment(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env))
    if ((INHERITED as readonly string[]).includes(name) || CLOUD.test(name)) env[name] = value
  return { ...env, ...extra }
}
