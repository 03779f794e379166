import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, connectionUrl, pattern, text } from '../../runtime/types.ts'
import { config, insecureTarget } from '../shared.ts'

export const spec = defineAction({
  name: 'setup',
  title: 'Set up MOLT',
  description: 'Puts a pinned molt and replicator on the PATH, after checking their digest and version.',
  icon: 'package',
  inputs: {
    version: defaulted(
      pattern(/^\d+\.\d+\.\d+$/, 'a full version such as 1.4.1'),
      '1.4.1',
      'Version of MOLT to install.',
    ),
    checksum: optional(
      pattern(/^([0-9a-f]{64}|trust-on-first-use)$/, 'a sha256 in 64 lower-case hex digits, or `trust-on-first-use`'),
      'sha256 of the archive for this platform, or `trust-on-first-use`: the ledger of `target` keeps the first digest, and any other is refused later.',
    ),
    'bin-dir': optional(text, 'Folder that already contains `molt` and `replicator`; nothing is downloaded.'),
    embedded: defaulted(
      boolean,
      'false',
      'Installs the embedded stand-in instead of MOLT, for rehearsals on the CockroachDB-like server.',
    ),
    'allow-denied-version': optional(text, 'A version on the deny list to use anyway; must match exactly.'),
    'download-url': defaulted(
      pattern(/^https?:\/\/\S+$/, 'an http(s) URL'),
      'https://molt.cockroachdb.com/molt/cli',
      'Base URL of the archives, for your own mirror.',
    ),
    target: optional(connectionUrl, 'CockroachDB whose ledger keeps the digest; needed for `trust-on-first-use`.'),
    ...insecureTarget,
    ...config,
  },
  outputs: {
    'molt-version': 'Version that molt reports.',
    'replicator-version': 'Version that the replicator reports.',
    'molt-sha256': 'sha256 of the molt program.',
    'replicator-sha256': 'sha256 of the replicator program.',
    'archive-sha256': 'sha256 of the downloaded archive; empty when nothing was downloaded.',
    engine: '`molt` or `embedded stand-in`.',
  },
})
