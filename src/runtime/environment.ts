/** Variables that child processes inherit. RUNNER_TRACKING_ID lets the runner find orphaned processes. */
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

/**
 * Builds the environment of a child process: what it needs to run and to access a cloud, without our inputs and tokens.
 */
export function childEnvironment(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env))
    if ((INHERITED as readonly string[]).includes(name) || CLOUD.test(name)) env[name] = value
  return { ...env, ...extra }
}
