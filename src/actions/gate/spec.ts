import { defaulted, defineAction, optional, required } from '../../runtime/spec.ts'
import { choice, connectionUrl, duration, integer, list, pattern, secretText, text } from '../../runtime/types.ts'
import { config, insecureTarget, migration } from '../shared.ts'

const hash = pattern(/^[0-9a-f]{64}$/, 'a sha256 in 64 lower-case hex digits')

export const spec = defineAction({
  name: 'gate',
  title: 'Approval gate',
  description:
    "Enforces a workflow's approval: the environment must have reviewers, and the ledger records who approved which plan. Reads GitHub's REST API; needs `permissions: actions: read`.",
  icon: 'shield',
  inputs: {
    do: required(
      choice('require', 'rehearsed', 'needed', 'approve'),
      '`require`: checks at the start that everything the approval needs exists. `rehearsed`: requires rehearsals of the plan. `needed`: reports whether a follower is still needed. `approve`: reads who approved, and records it in the ledger.',
    ),
    gate: defaulted(
      choice('environment', 'plan-hash', 'none'),
      'environment',
      '`environment`: its required reviewers approve. `plan-hash`: another person starts a second run with the hash of the plan. `none`: no approval; refused with `decision: commit`.',
    ),
    environment: defaulted(text, 'cutover', 'Environment whose protection rule is the approval gate.'),
    'secrets-environment': optional(
      text,
      'With `require`: environment with the secrets of the jobs that need no approval. It must be limited to certain branches.',
    ),
    'any-branch': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'With `require`: what to do when an environment accepts deployments from any branch.',
    ),
    'admins-can-bypass': defaulted(
      choice('refuse', 'warn'),
      'warn',
      "With `require`: what to do when administrators can bypass the environment's reviewers. `bypass` decides about a job that ran without an approval.",
    ),
    token: optional(secretText, 'The `github.token` of the job.'),
    target: optional(connectionUrl, 'CockroachDB to move to. Its ledger records the approval.'),
    migration: migration.migration,
    phase: defaulted(
      choice('prepare', 'load', 'stream', 'cutover', 'finalize'),
      'prepare',
      'With `require`: the phase at which the workflow starts.',
    ),
    decision: defaulted(
      choice('rehearse', 'commit'),
      'rehearse',
      'With `require` and `approve`: what the cutover will do.',
    ),
    'on-interrupted': defaulted(
      choice('fail', 'resume', 'restart'),
      'fail',
      'With `require`: what to do about an earlier load that did not finish.',
    ),
    'on-declined': defaulted(
      choice('keep-slot', 'drop-slot'),
      'keep-slot',
      'With `require`: what to do with the slot when the approval is declined or expires.',
    ),
    secrets: optional(
      list,
      'Items such as `MOLT_SOURCE=true`, one per secret: whether it has a value. The step fails and names each secret without one.',
    ),
    'max-approval-wait': defaulted(
      duration,
      '24h',
      'How long a follower streams while the approval is pending. With `gate: plan-hash`, also how old the run that showed the hash may be.',
    ),
    leg: defaulted(duration, '1h', 'Length of one leg of the follower; longer if 20 legs would not cover the wait.'),
    'plan-hash': optional(hash, 'The plan that the approver saw; any other is refused.'),
    tools: optional(
      list,
      "With `approve`: items such as `molt=<sha256>` for this runner's programs. Programs that are not in the plan are refused.",
    ),
    'approved-hash': optional(hash, 'With `gate: plan-hash`: the hash that the approver typed.'),
    'self-approval': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'What to do when the person who started the run also approved it.',
    ),
    bypass: defaulted(choice('refuse', 'warn'), 'refuse', 'What to do when the job runs without an approval.'),
    rehearsals: defaulted(
      integer(0, 20),
      '0',
      'Number of successful rehearsals that this exact plan needs, each with an attestation that `gh attestation verify` accepts. The summary shows how many there are, even if this is 0.',
    ),
    'rehearsed-within': defaulted(duration, '14d', 'How old these rehearsals may be.'),
    'rehearsal-workflow': defaulted(text, 'rehearse.yml', 'File name of the workflow that rehearses.'),
    ...insecureTarget,
    ...config,
  },
  outputs: {
    gate: 'With `require`: the `gate` of this run.',
    legs: 'With `require`: JSON array with the name of each leg (one job of the follower). The last is `leg-last`.',
    needed: 'With `needed`: `true` when a job must stream.',
    'approved-by': 'With `approve`: who approved; empty when no approval was required.',
  },
})
