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
      'With `require`: environment that holds the secrets of the jobs that need no approval. Its deployment branches must be limited.',
    ),
    'any-branch': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'With `require`: what to do when an environment accepts deployments from any branch.',
    ),
    'admins-can-bypass': defaulted(
      choice('refuse', 'warn'),
      'warn',
      "With `require`: what to do when administrators can bypass the environment's reviewers. If one does, and a job runs without approval, `bypass` decides.",
    ),
    token: optional(secretText, 'The `github.token` of the job.'),
    target: optional(connectionUrl, 'CockroachDB cluster with the ledger, which records the approval.'),
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
      'Items such as `MOLT_SOURCE=true`, which say whether each secret has a value. If one has none, the step fails and names it.',
    ),
    'max-approval-wait': defaulted(
      duration,
      '24h',
      'How long a follower streams while the approval is pending. With `gate: plan-hash`, also the maximum age of the run that showed the hash.',
    ),
    leg: defaulted(duration, '1h', 'Length of one leg of the follower; longer if 20 legs would not cover the wait.'),
    'plan-hash': optional(hash, 'Hash of the plan that the approver saw. Any other plan is refused.'),
    tools: optional(
      list,
      "With `approve`: items such as `molt=<sha256>` for the tools on this runner. A digest that differs from the plan's is refused.",
    ),
    'approved-hash': optional(hash, 'With `gate: plan-hash`: the hash that the approver typed.'),
    'self-approval': defaulted(
      choice('refuse', 'warn'),
      'refuse',
      'What to do when the person who started the run also approved it.',
    ),
    bypass: defaulted(choice('refuse', 'warn'), 'refuse', 'What to do when the job runs without approval.'),
    rehearsals: defaulted(
      integer(0, 20),
      '0',
      'Number of successful rehearsals required of this exact plan, each with an attestation that `gh attestation verify` accepts. The summary always shows how many there are.',
    ),
    'rehearsed-within': defaulted(duration, '14d', 'Maximum age of these rehearsals.'),
    'rehearsal-workflow': defaulted(text, 'rehearse.yml', 'File name of the workflow that rehearses.'),
    ...insecureTarget,
    ...config,
  },
  outputs: {
    gate: 'With `require`: the `gate` of this run.',
    legs: 'With `require`: JSON array with the name of each leg (one job of the follower). The last is `leg-last`.',
    needed: 'With `needed`: `true` when a job must stream.',
    'approved-by': 'With `approve`: who approved. Empty when no approval was required.',
  },
})
