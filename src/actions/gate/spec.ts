import { defaulted, defineAction, optional, required } from '../../runtime/spec.ts'
import { choice, connectionUrl, duration, integer, list, pattern, secretText, text } from '../../runtime/types.ts'
import { config, insecureTarget, migration } from '../shared.ts'

const hash = pattern(/^[0-9a-f]{64}$/, 'a sha256 in 64 lower-case hex digits')

export const spec = defineAction({
  name: 'gate',
  title: 'Approval gate',
  description:
    "Holds a workflow to its approval: the environment must have reviewers, and who approved which plan is written to the ledger. Reads GitHub's REST; needs `permissions: actions: read`.",
  icon: 'shield',
  inputs: {
    do: required(
      choice('require', 'rehearsed', 'needed', 'approve'),
      '`require`: at the beginning, everything must be there that the approval needs. `rehearsed`: the plan must have been rehearsed. `needed`: is a follower still needed? `approve`: reads who approved, and writes it to the ledger.',
    ),
    gate: defaulted(
      choice('environment', 'plan-hash', 'none'),
      'environment',
      '`environment`: its required reviewers. `plan-hash`: another person types the hash of the plan into a second dispatch. `none`: nobody approves; refused with `decision: commit`.',
    ),
    environment: defaulted(text, 'cutover', 'Environment whose protection rule is the gate.'),
    'secrets-environment': optional(
      text,
      'With `require`: environment that holds the secrets of the jobs that nobody approves. It must be limited to branches.',
    ),
    'any-branch': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'With `require`: when an environment takes deployments from any branch.',
    ),
    'admins-can-bypass': defaulted(
      choice('refuse', 'warn'),
      'warn',
      'With `require`: when the environment lets administrators bypass its reviewers. A job that ran so is refused by `bypass` in any case.',
    ),
    token: optional(secretText, 'The `github.token` of the job.'),
    target: optional(connectionUrl, 'CockroachDB moved to; its ledger keeps the approval.'),
    migration: migration.migration,
    phase: defaulted(
      choice('prepare', 'load', 'stream', 'cutover', 'finalize'),
      'prepare',
      'With `require`: where the workflow is to begin.',
    ),
    decision: defaulted(
      choice('rehearse', 'commit'),
      'rehearse',
      'With `require` and `approve`: what the cutover is to do.',
    ),
    'on-interrupted': defaulted(
      choice('fail', 'resume', 'restart'),
      'fail',
      'With `require`: what is to be done with a load that was begun before.',
    ),
    'on-declined': defaulted(
      choice('keep-slot', 'drop-slot'),
      'keep-slot',
      'With `require`: what is to be done with the slot when nobody approves.',
    ),
    secrets: optional(
      list,
      'Items such as `MOLT_SOURCE=true`: whether each secret has a value. One that has none fails by its name.',
    ),
    'max-approval-wait': defaulted(
      duration,
      '24h',
      'How long a follower streams on while nobody approves, and how old the run may be whose hash is typed.',
    ),
    leg: defaulted(duration, '1h', 'How long a leg of the follower is, if 20 of them are enough for the wait.'),
    'plan-hash': optional(hash, 'The plan that was shown to the approver; another one is refused.'),
    tools: optional(
      list,
      "With `approve`: items such as `molt=<sha256>`, of this runner's programs; others than the plan's are refused.",
    ),
    'approved-hash': optional(hash, 'With `gate: plan-hash`: what the approver typed.'),
    'self-approval': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'When the person who started the run has approved it too.',
    ),
    bypass: defaulted(choice('refuse', 'warn'), 'refuse', 'When the job runs although nobody approved it.'),
    rehearsals: defaulted(
      integer(0, 20),
      '0',
      'How often this very plan must have been rehearsed green, with an attestation that `gh attestation verify` accepts. The summary says how often it was, also with 0.',
    ),
    'rehearsed-within': defaulted(duration, '14d', 'How old these rehearsals may be.'),
    'rehearsal-workflow': defaulted(text, 'rehearse.yml', 'File name of the workflow that rehearses.'),
    ...insecureTarget,
    ...config,
  },
  outputs: {
    gate: 'With `require`: the `gate` of this run.',
    legs: 'With `require`: JSON array with a name for each leg of the follower; the last one is `leg-last`.',
    needed: 'With `needed`: `true` when a job must stream.',
    'approved-by': 'With `approve`: who did; empty when nobody was asked.',
  },
})
