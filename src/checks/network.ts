import type { Side } from '../runtime/database.ts'
import { DENIED_VERSIONS } from '../tools/versions.ts'
import type { Check } from './check.ts'
import type { Facts } from './facts/facts.ts'

const SIDES: readonly Side[] = ['source', 'target']
const DAY = 86_400_000

const certificate = (facts: Facts, side: Side) =>
  side === 'source' ? facts.source.connection.certificateUntil : facts.target.certificateUntil

/** Checks of the connections to both databases, and of the tools that use them. */
export const networkChecks: readonly Check[] = [
  {
    id: 'net.tls',
    severity: 'warn',
    title: 'Both connections verify the server',
    protects: 'Without verify-full, anyone on the network path can read the data or impersonate the server.',
    fix: 'Add `sslmode=verify-full` and `sslrootcert=` with the CA file to `{side}`.',
    *find(facts) {
      for (const side of SIDES) {
        const { sslmode, local } = facts.machine.urls[side]
        if (!local && sslmode !== 'verify-full')
          yield {
            object: side,
            what: `the ${side} is reached with sslmode=${sslmode || 'prefer (the default)'}`,
            names: { side },
          }
      }
    },
  },
  {
    id: 'net.certificate',
    severity: 'warn',
    title: "The servers' certificates outlast the migration",
    protects: 'If a certificate expires while the stream is running, the stream and the cutover stop.',
    fix: 'Renew the certificate of the {side} first.',
    *find(facts) {
      for (const side of SIDES) {
        const until = certificate(facts, side)
        if (until && until.getTime() - facts.machine.now.getTime() < 14 * DAY)
          yield {
            object: side,
            what: `the certificate of the ${side} expires on ${until.toISOString().slice(0, 10)}`,
            names: { side },
          }
      }
    },
  },
  {
    id: 'net.password',
    severity: 'block',
    title: 'Every program decodes the passwords the same way',
    protects:
      'Some programs truncate or change a password that has unencoded characters, so some connect and others fail.',
    fix: 'Percent-encode the password in `{side}`: node -p "encodeURIComponent(process.env.PASSWORD)"',
    *find(facts) {
      for (const side of SIDES)
        if (!facts.machine.urls[side].passwordSurvives)
          yield { object: side, what: `the password in \`${side}\` is not fully percent-encoded`, names: { side } }
    },
  },
  {
    id: 'net.bucket',
    severity: 'info',
    title: "The target's access to the bucket cannot be checked",
    protects: 'IMPORT INTO reads the files from the cluster: its nodes, not this runner, must reach the bucket.',
    fix: "On the target: CHECK EXTERNAL CONNECTION '{bucket}?AUTH=implicit'; -- as the migration user",
    *find({ settings }) {
      if (settings.bucketPath)
        yield {
          object: 'target',
          what: 'the runner cannot check whether the target can reach the bucket',
          names: { bucket: settings.bucketPath.replace(/\?.*/s, '') },
        }
    },
  },
  {
    id: 'tool.missing',
    severity: 'warn',
    title: 'molt and replicator are installed',
    protects: 'Without the tools, `prepare` cannot check their versions and capabilities.',
    fix: 'Run `setup` before `prepare` in the same job, to install {tool}.',
    *find({ machine: { tools } }) {
      for (const tool of ['molt', 'replicator'] as const)
        if (!tools[tool]) yield { object: tool, what: `${tool} is not on the PATH`, names: { tool } }
    },
  },
  {
    id: 'tool.denied',
    severity: 'block',
    title: 'The installed molt has no known bug that loses data',
    protects: 'molt 1.3.3 to 1.3.6 lose rows when an export query is retried.',
    fix: 'Install another version with `setup`.',
    *find({ machine: { tools } }) {
      const version = tools.molt?.version.split(' ')[0] ?? ''
      const reason = DENIED_VERSIONS[version]
      if (reason) yield { object: 'molt', what: `molt ${version} ${reason}` }
    },
  },
  {
    id: 'tool.version',
    severity: 'info',
    title: 'Versions and digests of the tools',
    protects: 'The plan records them, because another build can move data differently.',
    fix: 'Nothing to do. Later steps refuse any other build, unless you waive this check for `molt` or `replicator`.',
    *find({ machine: { tools } }) {
      for (const tool of ['molt', 'replicator'] as const) {
        const found = tools[tool]
        if (found) yield { object: tool, what: `${tool} ${found.version}, sha256 ${found.sha256.slice(0, 16)}…` }
      }
    },
  },
]
