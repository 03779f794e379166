/** The action that the user runs next. */
export interface NextStep {
  /** Name of the action, which is its folder in `actions/`. */
  action: string
  /** Inputs other than the connections and the migration's name. */
  inputs?: Readonly<Record<string, string>>
  /** What to do before that, as an imperative sentence with a full stop. */
  before?: string
}

/** Explains one error code, for messages and the documentation. */
export interface Explanation {
  /** What happened, in one sentence. */
  meaning: string
  /** Why it happens. */
  cause: string
  /** What to do, as an imperative. */
  fix: string
  /** Set when the fix is to run a different action from the one that failed. */
  next?: NextStep
}

/**
 * All error codes, grouped by topic (the part before the first dot). `docs/troubleshooting.md` is generated from this
 * table. Codes are stable, because users' workflows branch on the output `error-code`.
 */
export const CODES = {
  'abort.committed': {
    meaning: 'The migration is committed and cannot be aborted.',
    cause: 'The cutover has committed to the target, and the application may already have written there.',
    fix: 'Run `rollback` to return to the source, or `cutover` again to finish the switch.',
    next: { action: 'rollback' },
  },
  'abort.incomplete': {
    meaning: 'The migration is aborted, but parts of it remain.',
    cause: 'The message lists what failed, each with the code of its own error.',
    fix: 'Fix what the message lists, then run `abort` again.',
  },

  'approval.any-branch': {
    meaning: 'The environment allows deployments from any branch.',
    cause: 'Without a branch rule, anyone who can push a branch can run an edited workflow with its secrets.',
    fix: "Limit the environment's deployment branches to the default branch: [environments](environments.md).",
  },
  'approval.bypass-possible': {
    meaning: 'Administrators can bypass the reviewers of the environment.',
    cause:
      '"Allow administrators to bypass configured protection rules" is selected, and `admins-can-bypass` is `refuse`.',
    fix: "Clear it in the environment's settings, or set `admins-can-bypass: warn`.",
  },
  'approval.declined': {
    meaning: 'The cutover was declined, or not approved in time.',
    cause: 'A reviewer rejected the deployment, or `max-approval-wait` passed.',
    fix: "Start Migrate with `phase: cutover`. If the slot was dropped (`on-declined: drop-slot`), run Abort, then start with `phase: prepare`: [start over](runbook.md#abort-before-the-commit). Otherwise, the slot fills the source's disk until a stream reads it.",
    next: { action: 'cutover' },
  },
  'approval.environment-missing': {
    meaning: 'The environment named by `environment` does not exist.',
    cause:
      'The name is misspelled, or the environment was never created. GitHub creates a missing environment without any protection rules.',
    fix: 'Create the environment with required reviewers: [environments](environments.md).',
  },
  'approval.follower-failed': {
    meaning: 'The `follow` job of this run failed, so its stream cannot be trusted.',
    cause: 'That job streams changes during the approval. Its log shows why it failed.',
    fix: 'Read the log of that job, fix the cause, and start a new run with `phase: cutover`.',
    next: { action: 'cutover' },
  },
  'approval.gh-missing': {
    meaning: 'The GitHub CLI (`gh`) cannot be run.',
    cause: 'It is not installed on this self-hosted runner. `gate` uses it to check the signatures of rehearsals.',
    fix: 'Install `gh` on the runner.',
  },
  'approval.missing': {
    meaning: 'This run reached the cutover without a valid approval.',
    cause:
      'An administrator bypassed the rule, the rule was removed, or "Re-run" was used. An approval is valid for one attempt.',
    fix: 'Start a new run with `phase: cutover` and have it approved, or set `bypass: warn`.',
    next: { action: 'cutover' },
  },
  'approval.no-reviewers': {
    meaning: 'The environment has no required reviewers.',
    cause: 'An environment without reviewers lets every run through.',
    fix: 'Add required reviewers to the environment: [environments](environments.md).',
  },
  'approval.not-rehearsed': {
    meaning: 'This plan has too few valid rehearsals.',
    cause: 'The plan changed since the last rehearsal, or rehearsals failed, are too old, or ran on another branch.',
    fix: 'Run the rehearsal workflow on the default branch. The log lists each run that does not count, with the reason: [what counts](environments.md#only-rehearsed-plans).',
  },
  'approval.over': {
    meaning: 'This approval was declined or has expired.',
    cause: 'The `follow` job noticed and stopped streaming.',
    fix: 'Start a new run with `phase: cutover`.',
    next: { action: 'cutover' },
  },
  'approval.plan-changed': {
    meaning: 'The plan in the ledger is not the one that was approved.',
    cause: '`prepare` ran after the plan was shown to the reviewers.',
    fix: 'Start a new run with `phase: cutover`, and approve the plan in its brief.',
    next: { action: 'cutover' },
  },
  'approval.plan-not-shown': {
    meaning: 'No earlier run showed this plan, or it is older than `max-approval-wait`.',
    cause: 'With `gate: plan-hash`, the first run shows the plan, and a second run passes its hash in `approved-hash`.',
    fix: 'Start a run with an empty `approved-hash`, read its brief, and start another run with the hash from it.',
  },
  'approval.required': {
    meaning: 'A commit needs an approval.',
    cause: '`gate: none` was set together with `decision: commit`.',
    fix: 'Set `gate: environment`, or `gate: plan-hash` if your GitHub plan has no required reviewers.',
  },
  'approval.same-person': {
    meaning: 'One person both started and approved this cutover.',
    cause: 'Two people are required: one starts the run, and another approves it.',
    fix: 'Have a second person approve the run, or set `self-approval: warn`.',
  },
  'approval.weaker-verify': {
    meaning: '`final-verify` is weaker than in the approved plan.',
    cause: 'The input was lowered after the approval.',
    fix: 'Remove `final-verify`, or run `prepare` with the weaker level and have that plan approved.',
  },
  'approval.wrong-hash': {
    meaning: '`approved-hash` does not match the plan.',
    cause: 'The hash was mistyped, or the plan has changed since the brief was shown.',
    fix: 'Copy the hash from the latest brief.',
  },

  'brief.not-ready': {
    meaning: 'The migration is not ready for the cutover.',
    cause: 'The stream has not caught up, a check failed, or the slot is lost. The message lists each problem.',
    fix: 'Start Migrate with `phase: stream`. If the slot is lost, run Abort, then start with `phase: prepare`.',
    next: { action: 'replicate' },
  },

  'cancelled.after-commit': {
    meaning: 'The run stopped after the commit.',
    cause: 'The job was cancelled, or the run lost its hold, between the commit and the end of the switch.',
    fix: 'Run `cutover` again. It continues with the switch; nothing is undone.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'cancelled.run': {
    meaning: 'The run was cancelled.',
    cause: 'A person or a newer run cancelled the job, or its time limit passed.',
    fix: 'Run the step again. It resumes from the ledger.',
  },
  'cancelled.runner-gone': {
    meaning: 'The runner closed the output of the action.',
    cause: 'The runner process or its machine died.',
    fix: 'Run the step again on a healthy runner.',
  },

  'change-log.key-missing': {
    meaning: 'The change log does not contain the key of a changed row.',
    cause: "The table's replica identity is not its primary key.",
    fix: 'Set the replica identity of the table to DEFAULT on the source, or compare the table in full.',
  },
  'change-log.truncate': {
    meaning: 'A table was truncated on the source while the change log was read.',
    cause: 'PostgreSQL does not log the keys of truncated rows.',
    fix: 'Compare the table in full.',
  },

  'cleanup.degraded': {
    meaning: 'The last run of `observe` found the application degraded.',
    cause: 'Thresholds of `observe` were exceeded, so a rollback may still be needed. The message lists them.',
    fix: 'Run `observe` until the application is healthy, roll back, or set `waive: observe`: [observe](observe.md).',
    next: { action: 'observe' },
  },
  'cleanup.fence-armed': {
    meaning: 'The fence is armed, so nothing is cleaned up.',
    cause: 'A cutover is in progress, or someone armed the fence by hand.',
    fix: 'Wait until the cutover is over, or lift the fence with `fence`.',
  },
  'cleanup.foreign-objects': {
    meaning: "An object cannot be dropped, because other users' objects depend on it.",
    cause: "Someone created objects in this suite's schemas, or objects that depend on them.",
    fix: 'Move or drop the objects that the message names, and run the step again.',
  },
  'cleanup.incomplete': {
    meaning: 'Some objects still exist after `abort` or `cleanup`.',
    cause: 'A lock or another run prevented the drop.',
    fix: 'Run the same action again.',
  },
  'cleanup.not-compared': {
    meaning: 'Not every row has been compared since the commit.',
    cause:
      '`finalize` has not run, ended before the comparison, or was inconclusive. After the cleanup, rows can no longer be compared.',
    fix: 'Run `finalize`, or set `waive: compare`: [after the commit](how-it-works.md#after-the-commit).',
    next: { action: 'finalize' },
  },
  'cleanup.not-observed': {
    meaning: 'The application has not been observed since the commit.',
    cause: '`observe` has not run, so a rollback may still be needed.',
    fix: 'Run `observe`, or set `waive: observe`: [observe](observe.md).',
    next: { action: 'observe' },
  },
  'cleanup.not-over': {
    meaning: 'The migration is in the middle of its cutover.',
    cause: 'The commit or the switch is not finished.',
    fix: 'Run `cutover` again to finish it, or `rollback` to return to the source.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'cleanup.other-migration': {
    meaning: 'The objects on the source belong to another migration.',
    cause: '`prepare` registered a different migration on this source than the one in `migration`.',
    fix: 'Set `migration` to the name that the message shows.',
  },
  'cleanup.rollback-window': {
    meaning: 'The rollback window is still open.',
    cause: 'Until it closes, `rollback` needs the fenced source.',
    fix: 'Wait until the time that the message names, or set a shorter `rollback-window`.',
  },
  'cleanup.rows-differ': {
    meaning: 'Rows differ between the source and the target as of the commit.',
    cause: '`finalize` compared all rows after the commit. Only the fenced source still has the correct ones.',
    fix: 'Roll back, or restore the rows by hand and set `waive: compare`: [after the commit](how-it-works.md#after-the-commit).',
  },

  'cli.invalid-option': {
    meaning: '`npm run action` was given an invalid option.',
    cause: 'The option is misspelled, lacks its value, or is not an input of the action.',
    fix: "Correct the option. The action's README lists its inputs.",
  },
  'cli.no-earlier-run': {
    meaning: '`--post` has no earlier run to follow.',
    cause: 'The main step of this action has not run here.',
    fix: 'Run the action without `--post` first.',
  },
  'cli.unknown-action': {
    meaning: '`npm run action` does not know this action.',
    cause: 'The name is misspelled.',
    fix: 'Use one of the names that the message lists.',
  },

  'command.failed': {
    meaning: 'Your command failed.',
    cause: '`switch-command` or `smoke-test` ended with an exit code other than 0.',
    fix: 'Check its output in the log, fix the command, and run the step again.',
  },
  'command.timeout': {
    meaning: 'Your command did not finish in time and was killed.',
    cause: 'It ran longer than `switch-timeout` or `smoke-test-timeout`.',
    fix: 'Make it faster, or raise that timeout.',
  },

  'commit.no-timestamp': {
    meaning: 'The target does not report its time, so `finalize` cannot compare rows as of the commit.',
    cause:
      '`cluster_logical_timestamp()` failed. It needs serializable transactions, and SELECT on the heartbeat table.',
    fix: 'If the role uses another isolation level, run the ALTER ROLE statement from the message on the target. Otherwise run `prepare` with `grants: print`, and grant what is missing.',
  },
  'commit.retention-short': {
    meaning:
      'The target would discard its history before `finalize` has compared all rows as of the commit. Nothing was committed.',
    cause: '`gc.ttlseconds` is too short for a comparison of all rows.',
    fix: 'Run the `CONFIGURE ZONE` statement from the message. Keep that setting until the migration is finalized.',
  },

  'config.invalid': {
    meaning: 'A section of the config file is not a map.',
    cause: 'The indentation is wrong, or the section contains a list or a plain value.',
    fix: 'Write the section as `input: value` lines. `docs/config.schema.json` describes all of them.',
  },
  'config.secret-in-file': {
    meaning: 'The config file contains a plain-text secret.',
    cause: 'A secret is written directly in the file.',
    fix: 'Write `env:NAME`, pass the secret in the environment variable NAME, and rotate the secret.',
  },
  'config.unknown-name': {
    meaning: 'The config file has a section or an input that does not exist.',
    cause: 'The name is misspelled, or belongs to another section.',
    fix: 'Correct the name. `docs/config.schema.json` lists all of them.',
  },
  'config.unreadable': {
    meaning: 'The config file cannot be read.',
    cause: 'The path is wrong, the repository is not checked out, or the file is not YAML.',
    fix: 'Correct `config`, and run `actions/checkout` before this step.',
  },
  'config.variable-empty': {
    meaning: 'An environment variable that the config file names is empty or not set.',
    cause: 'The secret does not exist, or the job does not pass it on.',
    fix: 'Set the secret and pass it in `env:` of the job; call the workflow with `secrets: inherit`.',
  },

  'connect.certificate-expired': {
    meaning: "The server's certificate is outside its validity period.",
    cause: 'It has expired or is not valid yet, or the clock of the runner is wrong.',
    fix: "Renew the certificate, or correct the runner's clock.",
  },
  'connect.certificate-host': {
    meaning: "The server's certificate is for another host.",
    cause: 'The host name in the URL is not one of the names in the certificate.',
    fix: 'In the URL, use a host name from the certificate.',
  },
  'connect.certificate-untrusted': {
    meaning: "The server's certificate is not signed by an authority that this runner trusts.",
    cause: 'The certificate authority is private to your provider or company.',
    fix: 'Commit the CA file and name it in the URL, as in `sslrootcert=certs/ca.pem`: [environments](environments.md).',
  },
  'connect.failed': {
    meaning: 'A database cannot be reached.',
    cause: 'The host or the port is wrong, the server is down, or a firewall blocks the runner.',
    fix: 'Check the host and the port, and allow the runner in the firewall.',
  },
  'connect.login-refused': {
    meaning: 'A database rejected the login.',
    cause: 'The user or the password is wrong, or `pg_hba.conf` does not allow this client.',
    fix: 'Check the user, the password and `pg_hba.conf`.',
  },
  'connect.no-database': {
    meaning: 'The database that the URL names does not exist.',
    cause: 'The name is misspelled, or the database was dropped.',
    fix: 'Correct the database name in the URL.',
  },
  'connect.no-free-slot': {
    meaning: 'The server has no free connection slot.',
    cause:
      'A limit is reached: `max_connections`, or the CONNECTION LIMIT of the role or the database. The server names it.',
    fix: 'Close idle connections, or raise that limit.',
  },
  'connect.no-tls': {
    meaning: 'The server does not offer TLS.',
    cause: 'TLS is off on the server, so rows and passwords would travel unencrypted.',
    fix: 'Turn on TLS on the server.',
  },
  'connect.not-allowed': {
    meaning: 'The user is not allowed to connect to a database.',
    cause: 'The user can log in to the server, but lacks CONNECT on this database.',
    fix: 'Grant the user CONNECT on the database (`grants: print` writes the statement).',
  },
  'connect.not-ready': {
    meaning: 'The server is not accepting connections.',
    cause: 'It is starting, shutting down or recovering (57P03).',
    fix: 'Wait until it has started, then run the step again.',
  },
  'connect.option-refused': {
    meaning: 'A database rejected a start-up parameter.',
    cause: '`options` in the URL sets a parameter that this server does not know, or a value that it rejects.',
    fix: 'Remove that parameter from `options` in the URL.',
  },
  'connect.pooler': {
    meaning: 'A pooler between this runner and a database rejects or drops start-up parameters.',
    cause:
      'PgBouncer and similar poolers lend one server session to several clients. Loads, streams and the fence need dedicated sessions.',
    fix: 'Use the host and port of the server itself in the URL, such as 5432 instead of 6432.',
  },
  'connect.url-unusable': {
    meaning: 'A connection URL cannot be used.',
    cause: 'A certificate file in it is missing or damaged, or a parameter is invalid.',
    fix: 'Correct the URL, and make sure that its files exist in the job.',
  },

  'convert.decisions': {
    meaning: 'The file that `decisions` names cannot be used.',
    cause: 'It does not exist, is not valid YAML, or names an unknown key, table, column, index or constraint.',
    fix: 'Correct each line that the message lists. Point your editor to `docs/convert.schema.json`.',
  },
  'convert.object-exists': {
    meaning: 'An object that `1-tables.sql` creates already exists on the target.',
    cause: 'The source has changed since an earlier `apply`, or another user created the object.',
    fix: 'Alter the object by hand, or drop it and run `convert` again. `convert` never drops objects.',
  },
  'convert.schema-missing': {
    meaning: 'The source has no schema with this name.',
    cause: 'The input `schema` is misspelled, or the URL names another database.',
    fix: 'Correct `schema`, or the database in the URL.',
  },
  'convert.target-not-empty': {
    meaning: 'The schema on the target has tables that `convert` did not create. Nothing was created.',
    cause: '`target` names a database that is in use, or the tables were created by hand.',
    fix: 'Point `target` at an empty database, or create the missing objects from `1-tables.sql` by hand.',
  },
  'convert.too-late': {
    meaning: 'The migration is past `prepare`, so `convert` creates no tables.',
    cause: '`convert` ran with `apply` after the load had begun.',
    fix: 'Run `convert` without `apply`. To start over, run `abort` and `cleanup` first.',
  },

  'cutover.end-sessions': {
    meaning: 'The sessions that `end-sessions` names cannot be ended. Nothing was paused.',
    cause: 'A role does not exist, or the migration user is not allowed to end its sessions.',
    fix: 'Correct the role names, or run the GRANT statement from the message, on the source.',
  },
  'cutover.like-server': {
    meaning: 'The target is a like-server, not CockroachDB, so a commit is refused. Nothing was paused.',
    cause: 'The migration was prepared for a rehearsal, but the cutover was started with `decision: commit`.',
    fix: 'Set `target` to the cluster, or `decision: rehearse`.',
  },

  'database.connection-lost': {
    meaning: 'The connection to a database was lost.',
    cause: 'The server restarted, or the network failed.',
    fix: 'Run the step again. It resumes from the ledger.',
  },
  'database.contention': {
    meaning: 'The target kept rejecting a statement because of other transactions.',
    cause:
      'Long or frequent transactions use the same rows or definitions (40001), or the result of a statement is unknown (40003).',
    fix: 'Stop other schema changes and long transactions on the target, and run the step again.',
  },
  'database.dependent-objects': {
    meaning: 'A database object cannot be dropped, because other objects depend on it.',
    cause: 'A view, a foreign key or a function uses an object that this suite created or deferred.',
    fix: 'Move or drop the objects that the message names, and run the step again.',
  },
  'database.lock-timeout': {
    meaning: 'A lock was not available in time.',
    cause: 'Another session holds a conflicting lock.',
    fix: 'End that session, or wait for it, and run the step again.',
  },
  'database.missing-right': {
    meaning: 'The migration user lacks a privilege.',
    cause: 'The privilege was never granted, or was revoked after `prepare`.',
    fix: 'Grant it. `prepare` with `grants: print` prints all the grants that are needed.',
  },
  'database.object-busy': {
    meaning: 'A database object is in use.',
    cause: 'A schema change, an import or another session is using it.',
    fix: 'Wait until the other operation has finished, or end it, and run the step again.',
  },
  'database.object-exists': {
    meaning: 'A name that this step needs is already in use in the database.',
    cause: 'Another tool or person created it, or two runs acted at the same time.',
    fix: 'Rename or drop the object that the message names, and run the step again.',
  },
  'database.object-missing': {
    meaning: 'A database object that this step needs no longer exists.',
    cause: 'It was dropped or renamed after `prepare`, or an older state was restored.',
    fix: 'Restore the object, and run the step again.',
  },
  'database.out-of-resources': {
    meaning: 'A database has run out of a resource.',
    cause: 'Disk, memory or connections are used up.',
    fix: 'Free up the resource that the message names, and run the step again.',
  },
  'database.read-only': {
    meaning: 'A database is read-only.',
    cause: 'The server is a standby, or an administrator, a full disk or a role setting made it read-only.',
    fix: 'Use the primary in the URL, or make the database writable, and run the step again.',
  },
  'database.refused-by-code': {
    meaning: 'Code in the database rejected a statement.',
    cause:
      'A trigger, an event trigger, a rule or an extension raised an exception. Some event triggers forbid schema changes.',
    fix: 'Exempt the migration user in that code, or disable the event trigger until the migration is over, and run the step again.',
  },
  'database.row-refused': {
    meaning: 'A database rejected a value or a row.',
    cause: 'A constraint, a domain or a column type does not allow it. The message leaves out the values.',
    fix: "Correct the row or the definition that the message names. The server's log shows the row.",
  },
  'database.schema-locked': {
    meaning: 'A table on the target is locked against schema changes.',
    cause:
      'From 26.1 on, CockroachDB creates tables with `schema_locked = true`. `prepare` unlocks the tables whose indexes or constraints it defers. This table was locked later, or is not part of the migration.',
    fix: 'Run `ALTER TABLE name SET (schema_locked = false)` for the table in the message, then run the step again.',
  },
  'database.server-fault': {
    meaning: 'A database server reported an internal error.',
    cause: 'A disk is failing, a file is damaged, or the server has a bug.',
    fix: "Check the server's log, fix the server, and run the step again.",
  },
  'database.session-timeout': {
    meaning: 'The server ended a session because of a timeout.',
    cause:
      'The timeout `idle_in_transaction_session_timeout`, `idle_session_timeout` or `transaction_timeout` is set for the role, the database or the server.',
    fix: 'Set that timeout to 0 for the migration user, as in `ALTER ROLE CURRENT_USER SET idle_session_timeout = 0;`, and run the step again.',
  },
  'database.statement-ended': {
    meaning: 'A database cancelled a statement.',
    cause:
      'The timeout `statement_timeout` is set for the role, the database or the server, an operator cancelled the statement, or the server is shutting down.',
    fix: 'If `statement_timeout` is set, run `ALTER ROLE CURRENT_USER SET statement_timeout = 0;` as the migration user. Then run the step again.',
  },
  'database.uncategorized': {
    meaning: 'CockroachDB rejected a statement with an uncategorized error.',
    cause:
      'It uses SQLSTATE XXUUU for errors without a specific code: an unreadable file or bucket, a row that an import rejects, a failed schema change.',
    fix: 'Read the message, fix what failed, and run the step again.',
  },
  'database.unsupported': {
    meaning: 'A database does not support a statement that this step needs.',
    cause: "The server's version is too old, or its provider has disabled the feature.",
    fix: 'Upgrade the server, or ask its provider to allow the statement in the message.',
  },

  'deferral.not-captured': {
    meaning: 'The definitions of some indexes or constraints on the target cannot be captured, so none was dropped.',
    cause: 'A schema change is in progress on the target, or the catalog does not show a definition.',
    fix: 'Wait until all schema changes have finished (`SHOW JOBS`), and run `prepare` again.',
    next: { action: 'prepare' },
  },
  'deferral.not-restored': {
    meaning: 'Deferred unique indexes or constraints could not be built on the target.',
    cause: 'Rows violate a definition, or the target rejects the statement. The message lists each object.',
    fix: 'Fix what the message lists, and run the step again.',
  },
  'deferral.rows-break-definition': {
    meaning: 'An index or constraint cannot be built because rows violate its definition.',
    cause: 'The source has such rows too, for example because its own constraint is NOT VALID.',
    fix: 'Run the query that the message shows, correct the rows on the source, and run the step again.',
  },
  'deferral.trial-failed': {
    meaning: 'A trial rebuild of indexes or constraints failed on the target, so none was dropped.',
    cause:
      'The server rejects a definition that it printed itself, or the migration user lacks a privilege. The message lists each object.',
    fix: 'Change the definition on the target, or set `defer: none`. `trial: none` skips the trial.',
  },

  'drain.not-proved': {
    meaning: 'The target may lack changes that were committed on the source.',
    cause: 'The replicator retried or was still applying changes, or changes are in the dead-letter table.',
    fix: 'Fix what the message names, wait until the stream has caught up, and run the step again.',
  },
  'drain.replicator-ended': {
    meaning: 'The replicator exited during the drain and was restarted. No change is lost.',
    cause:
      "SIGKILL means that the machine ran out of memory or someone killed the process. In all other cases, the message contains the replicator's last error.",
    fix: "Check the runner's kernel log for the out-of-memory killer, and run the step again.",
  },

  'fence.armed-by-other': {
    meaning: 'The fence is armed by a run that does not hold this migration.',
    cause: 'An earlier run died, or someone armed the fence by hand.',
    fix: 'Wait until the lease of the fence expires, or lift the fence with `fence`.',
  },
  'fence.cannot-probe': {
    meaning: 'The fence of a table cannot be tested.',
    cause:
      "The migration user lacks a privilege, or the table's own triggers or rules reject or replace every write before the fence can refuse it.",
    fix: 'Grant DELETE to the migration user, or let it run a DELETE, UPDATE or INSERT that affects no rows.',
  },
  'fence.changed-by-other': {
    meaning: 'Another session lifted or re-armed the fence while this run held it.',
    cause: 'Someone ran `fence`, `abort` or their own SQL. A write may have slipped past the fence.',
    fix: 'Find out who it was, and run the cutover again.',
  },
  'fence.damaged': {
    meaning: 'The fence is damaged.',
    cause:
      'A trigger, its function or a sequence is missing or was changed, or a new table or partition has no trigger.',
    fix: 'Run `prepare` again.',
    next: { action: 'prepare' },
  },
  'fence.damaged-after-commit': {
    meaning: 'The fence on the source was changed or lifted after the commit.',
    cause: 'Someone ran `fence` or their own SQL on the source.',
    fix: 'Look for rows written on the source since the commit. The message names the tables and the next step.',
  },
  'fence.lapsed': {
    meaning: 'The fence lapsed or was changed just before the commit. Nothing was committed.',
    cause: 'The lease was not renewed in time, or another session changed it.',
    fix: 'Run the cutover again, with a longer `lease` if the machine is slow.',
  },
  'fence.not-holding': {
    meaning: 'The fence is not reliable. Writes may have slipped past it.',
    cause: 'Triggers are missing or disabled, or the fence was changed while it was armed.',
    fix: 'Run `prepare` again, and repeat every verification that relied on this fence.',
    next: { action: 'prepare' },
  },
  'fence.not-installed': {
    meaning: 'No fence is installed on the source.',
    cause: '`prepare` has not run, or `cleanup` removed the fence.',
    fix: 'Run `prepare` first.',
    next: { action: 'prepare' },
  },
  'fence.permanent': {
    meaning: 'The fence is permanent, because the cutover is committed.',
    cause: 'After the commit, the application uses the target.',
    fix: 'Run `rollback` to return to the source.',
    next: { action: 'rollback' },
  },
  'fence.permanent-without-commit': {
    meaning: 'The source is fenced permanently, but the ledger does not record a commit of this migration.',
    cause: 'The ledger was restored from an older state, or someone fenced the source by hand.',
    fix: 'Find out which database the application uses. `rollback` makes the source writable again.',
    next: { action: 'rollback' },
  },
  'fence.probe-passed': {
    meaning: 'The fence let a test write through.',
    cause: 'Its trigger is missing or disabled on a table.',
    fix: 'Run `prepare` again, then the cutover.',
    next: { action: 'prepare' },
  },
  'fence.refuses-unarmed': {
    meaning: 'The fence refuses writes although it is not armed.',
    cause: 'Its function or sequence was changed, or the clock of the source jumped.',
    fix: 'Run `prepare` again.',
    next: { action: 'prepare' },
  },
  'fence.removed-after-commit': {
    meaning: 'The migration is committed, but the source is not fenced.',
    cause: 'Someone removed the fence after the commit, or restored the source.',
    fix: 'Look for rows written on the source since the commit before you do anything else.',
  },
  'fence.table-dropped': {
    meaning: 'A fenced table was dropped on the source.',
    cause: 'DDL ran after `prepare`.',
    fix: 'Restore the table, or abort and prepare again.',
    next: { action: 'abort' },
  },
  'fence.table-rewritten': {
    meaning: 'A table was rewritten, renamed or dropped on the source while the fence was armed.',
    cause: 'DDL, VACUUM FULL or CLUSTER ran during the write pause. Triggers do not stop them.',
    fix: 'Stop these jobs, and run the cutover again.',
  },
  'fence.write-passed': {
    meaning: 'A write got past the fence after it was armed.',
    cause: 'The lease ran out, or someone lifted the fence.',
    fix: 'Run the cutover again, with a longer `lease` if the machine is slow.',
  },
  'fence.writers-remain': {
    meaning: 'Transactions that hold a write lock did not finish in time.',
    cause: 'A long or prepared transaction started before the fence.',
    fix: 'End the sessions that the message names (`pg_terminate_backend`, `ROLLBACK PREPARED`), or set `end-sessions`.',
  },

  'finalize.cutover-unfinished': {
    meaning: 'The cutover is unfinished, so nothing was finalized.',
    cause: 'Its run was interrupted.',
    fix: 'Run `cutover` again. It continues from where it stopped.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'finalize.definitions-differ': {
    meaning: "The target's definitions differ from the source's.",
    cause: 'An index, constraint or sequence is missing or different.',
    fix: 'Correct each one. To accept the differences, set `structure: report` in the `verify` section of the config file.',
  },
  'finalize.not-switched': {
    meaning: 'No one has confirmed that the application uses the target.',
    cause: 'The switch is manual and has not been confirmed.',
    fix: 'Switch the application, then start Migrate with `phase: finalize` and tick `switched-by-hand`.',
  },

  'github.not-found': {
    meaning: 'GitHub cannot find an artifact of an earlier run.',
    cause: 'It was deleted, or has expired.',
    fix: 'Check the name in the message, and start a new run.',
  },
  'github.rate-limited': {
    meaning: "The token's GitHub rate limit is used up.",
    cause: 'The runs of this repository have used the 1,000 requests that `GITHUB_TOKEN` has per hour.',
    fix: 'Rerun the job at the time that the message names.',
  },
  'github.refused': {
    meaning: 'GitHub denied a request.',
    cause: 'The job lacks a permission, or `token` is not set.',
    fix: 'Grant the calling job `actions: read` (and `attestations: read` for rehearsals), and set `token` to `github.token`.',
  },
  'github.unavailable': {
    meaning: 'GitHub kept failing during several minutes of retries.',
    cause: 'GitHub has an outage.',
    fix: 'Check githubstatus.com, and rerun the job after the outage.',
  },
  'github.unexpected-answer': {
    meaning: 'GitHub returned a response that this version cannot read.',
    cause: 'A GitHub Enterprise Server or a proxy responds differently from github.com.',
    fix: 'Update this suite. If that does not help, report the message.',
  },
  'github.unreachable': {
    meaning: 'GitHub cannot be reached.',
    cause: 'The network or GitHub is down, or a proxy blocks the request.',
    fix: 'Run the step again. On a self-hosted runner, allow the API host.',
  },

  'heartbeat.changed': {
    meaning: 'The heartbeat on the target is ahead of the source.',
    cause: 'Someone changed the row on the target, or another stream writes there.',
    fix: 'Run the UPDATE from the message on the target, and find out who changed the row.',
  },
  'heartbeat.missing': {
    meaning: 'The heartbeat row no longer exists.',
    cause: 'Someone ran `abort` or `cleanup`, or deleted the row.',
    fix: 'Run `prepare` and `fetch` again.',
  },

  'hold.handover-pending': {
    meaning: 'Another run has requested the slot of this migration.',
    cause: 'The slot is being handed over, and only one run can read it.',
    fix: 'Wait for that run, or cancel it.',
  },
  'hold.handover-timeout': {
    meaning: 'The slot was not handed over in time.',
    cause: 'The streaming run is stuck.',
    fix: 'Cancel that run, and start a new one with `phase: cutover`.',
    next: { action: 'cutover' },
  },
  'hold.lost': {
    meaning: 'This run lost its hold on the migration and stopped.',
    cause: 'The hold was not renewed in time: the runner was frozen, or the target was unreachable.',
    fix: 'Run the step again. If another run has taken over, wait for it.',
  },
  'hold.taken': {
    meaning: 'Another run holds this migration.',
    cause: 'Only one run can act on a migration at a time. The message shows when the hold of a dead run expires.',
    fix: 'Wait for that run, or cancel it.',
  },

  'input.conflict': {
    meaning: 'Two inputs contradict each other.',
    cause: 'The message names both.',
    fix: 'Remove one of them.',
  },
  'input.insecure-url': {
    meaning: 'A connection may be unencrypted.',
    cause: '`sslmode` in the URL allows a connection without TLS, or without verifying the server.',
    fix: 'Set `sslmode=verify-full` in the URL, or `allow-insecure: true`.',
  },
  'input.invalid': {
    meaning: 'An input has a value that is not allowed.',
    cause: 'The value does not have the required form.',
    fix: 'Set the input to a value in the format shown in the message.',
  },
  'input.missing': {
    meaning: 'A required input is missing.',
    cause: 'Neither the step nor the config file sets it.',
    fix: 'Set the input.',
  },
  'input.reserved-argument': {
    meaning: 'An extra argument is reserved.',
    cause: 'The action sets this argument itself, or the argument would break a proof.',
    fix: 'Remove the argument. The action may have an input for it.',
  },
  'input.secret-missing': {
    meaning: 'A secret is empty or not set for this job.',
    cause: 'The secret does not exist, or the caller does not pass it on.',
    fix: 'Set it in the repository or the environment, and call the workflow with `secrets: inherit`.',
  },
  'input.unknown-table': {
    meaning: 'An input names a table that does not exist or is not part of the migration.',
    cause: 'The name is misspelled. Names are case-sensitive and written without the schema.',
    fix: 'Correct the name.',
  },

  'internal.bug': {
    meaning: 'The action failed unexpectedly.',
    cause: 'This suite has a bug.',
    fix: 'Report the message with its stack trace. Row values and passwords are masked in it.',
  },

  'ledger.changed-by-hand': {
    meaning: 'The ledger was changed by hand.',
    cause: 'The plan does not match its hash, or part of the entry is missing.',
    fix: 'Prepare a new migration.',
  },
  'ledger.moved': {
    meaning: 'Another run changed the phase of this migration, so this run stopped.',
    cause: 'Two runs acted at the same time.',
    fix: 'Run `status`, then the step that it names.',
    next: { action: 'status' },
  },
  'ledger.no-migration': {
    meaning: "The target's ledger does not have this migration.",
    cause: '`prepare` has not run, `migration` is misspelled, or the URL names another target.',
    fix: 'Run `prepare` first.',
  },
  'ledger.wrong-phase': {
    meaning: 'The migration is in a phase that this step does not accept.',
    cause: 'A step was skipped, or has already run.',
    fix: 'Run `status`, and continue with the step that it names.',
  },

  'load.aborted': {
    meaning: 'The load stopped because the migration was aborted.',
    cause: 'Someone ran `abort` while `fetch` was loading.',
    fix: 'To start over, run `prepare` and `fetch` again.',
    next: { action: 'prepare' },
  },
  'load.bucket-refused': {
    meaning: "The bucket refuses MOLT's credentials, or does not exist.",
    cause: "The credentials, the region or the endpoint in the step's environment are missing, wrong or expired.",
    fix: 'Set `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_REGION`, or a role that can read, write and list the bucket.',
  },
  'load.cancel-refused': {
    meaning: 'The migration role cannot cancel the imports of its own load.',
    cause: 'Up to v24.3, CANCEL JOB requires the role admin or the privilege CONTROLJOB.',
    fix: 'As an administrator, cancel the jobs that the message names. Then grant the migration role SYSTEM CONTROLJOB.',
  },
  'load.cannot-resume': {
    meaning: 'The interrupted load cannot be resumed.',
    cause: 'A direct copy cannot be resumed. Other loads can be resumed once every table has been exported.',
    fix: 'Set `on-interrupted: restart`.',
    next: { action: 'fetch', inputs: { 'on-interrupted': 'restart' } },
  },
  'load.cannot-stream': {
    meaning: 'All rows were loaded, but a stream cannot continue from this load.',
    cause: 'The slot, the publication or a table changed during the load.',
    fix: 'Fix what the message lists, empty the target tables, and load again.',
  },
  'load.disk-full': {
    meaning: 'The disk for intermediate files is full.',
    cause: '`local-path` is too small for the exported files.',
    fix: 'Free up space, or set `bucket-path`.',
  },
  'load.duplicate-key': {
    meaning: 'A row with the same key already exists on the target.',
    cause: 'The table was not empty, or another session is writing to it.',
    fix: 'Stop that session, empty the table, and load again.',
  },
  'load.files-unreadable': {
    meaning: 'The target cannot read the files that MOLT wrote.',
    cause: "The cluster cannot reach the bucket or the runner's file server, or is not allowed to read the files.",
    fix: 'Give every node access to the bucket, or set `local-path-crdb-access-addr` to an address that the nodes can reach.',
  },
  'load.foreign-import': {
    meaning: 'An import that is not part of this migration keeps expected tables offline.',
    cause:
      "Another person or tool is importing into these tables. `fetch` cancels only imports of this migration's own files.",
    fix: 'Wait until the job that the message names has finished, or ask its owner to cancel it.',
  },
  'load.generated-column': {
    meaning: 'A generated column cannot be loaded.',
    cause: 'The target computes it, but MOLT writes it.',
    fix: 'Exclude the table, or make it an ordinary column on both sides until the switch: [`tbl.generated`](checks.md#tblgenerated).',
  },
  'load.incomplete': {
    meaning: 'The load is not complete, although molt fetch reported no failure.',
    cause:
      'A table or column was skipped, rows are missing, or the completion record is missing. The message lists each problem.',
    fix: 'Fix what the message lists, empty the target tables, and load again.',
  },
  'load.interrupted': {
    meaning: 'An earlier load was interrupted, and its slot still exists.',
    cause: 'That load failed or was cancelled.',
    fix: 'Set `on-interrupted: resume` to continue it, or `on-interrupted: restart` to load everything again.',
  },
  'load.jobs-running': {
    meaning: 'Import jobs on the target do not finish.',
    cause: 'Jobs from an earlier load keep their tables offline.',
    fix: 'Find them with `SHOW JOBS`, and cancel them.',
  },
  'load.no-address': {
    meaning: 'The runner has no network address from which the target could read local files.',
    cause: '`local-path-crdb-access-addr` is not set, and the runner has only its loopback address.',
    fix: 'Set `local-path-crdb-access-addr`, or use a bucket.',
  },
  'load.null-refused': {
    meaning: 'A column on the target does not accept NULL.',
    cause: 'Early MOLT builds write NULL for an empty string.',
    fix: 'Use a newer build, or correct the empty strings in that column on the source.',
  },
  'load.partly-imported': {
    meaning: 'Tables already contain some of the rows that MOLT would import again.',
    cause:
      'When a batch of files fails, MOLT splits it in half and retries. The rows from the half that succeeded stay in the table.',
    fix: 'Empty the tables that the message names, then resume the load again.',
  },
  'load.recreate-loses-rights': {
    meaning: 'Dropping and recreating the tables would remove privileges of other roles.',
    cause: '`table-handling` is `drop-on-target-and-recreate`, and MOLT does not restore privileges.',
    fix: 'Set `table-handling: truncate-if-exists`, which keeps the tables.',
  },
  'load.still-running': {
    meaning: 'A run is still loading an aborted migration.',
    cause: 'The run did not notice the abort, or is stuck.',
    fix: 'Cancel the run that the message names, then run `abort` again.',
  },
  'load.tables-not-exact': {
    meaning: 'The load would not move exactly the expected tables. No row was moved.',
    cause: "MOLT's table filter matches additional tables, or not all of the expected ones.",
    fix: 'Rename or exclude the tables that the message lists.',
  },
  'load.target-not-empty': {
    meaning: 'Target tables contained rows before the load.',
    cause: 'They are left over from an earlier load, or another session inserted them.',
    fix: 'Empty the tables, or list them in `allow-truncate`: [start over](runbook.md#abort-before-the-commit).',
  },

  'mask.canaries-missing': {
    meaning: 'The environment variable for the canaries is empty or not set.',
    cause: 'The secret does not exist, or the job does not pass it on.',
    fix: 'Set the variable that the rules file names.',
  },
  'mask.copy-failed': {
    meaning: 'Copying a table into the rehearsal source failed.',
    cause: 'A rule produces a value that the column rejects, or a connection was lost.',
    fix: 'Correct the rule of the table that the message names, and run the step again.',
  },
  'mask.failed': {
    meaning: 'Masking failed.',
    cause: 'A database rejected a statement. The message leaves out the values.',
    fix: 'Look up the SQLSTATE in the message, fix the cause, and run the step again.',
  },
  'mask.file-exists': {
    meaning: 'The rules file already exists.',
    cause: '`mask` never overwrites a file with its proposed rules.',
    fix: 'Set `rules` to the path of a new file.',
  },
  'mask.file-unwritable': {
    meaning: 'A file cannot be written.',
    cause: 'The folder does not exist or is read-only.',
    fix: 'Set another path.',
  },
  'mask.key-invalid': {
    meaning: 'The masking key is missing or too weak.',
    cause: 'The variable is empty, too short or not random.',
    fix: 'Run `openssl rand -hex 32`, and keep the result as a secret.',
  },
  'mask.key-logged': {
    meaning: 'A server would write the masking key to its log.',
    cause: 'Statement logging is on for this role.',
    fix: 'Run the ALTER ROLE statement from the message as an administrator.',
  },
  'mask.no-tables': {
    meaning: 'The schema has no tables to mask.',
    cause: '`schema` is misspelled, or the role lacks USAGE or SELECT.',
    fix: 'Correct `schema`, or grant these privileges.',
  },
  'mask.not-proved': {
    meaning: 'The masked copy may contain personal data, so it was discarded.',
    cause:
      'An original value is still in the copy, a text looks like personal data, or the copy violates a constraint. The message lists each column.',
    fix: 'Give these columns another rule, or accept them with a reason under `proof` in the rules file: [masking](masking.md).',
  },
  'mask.reaches-out': {
    meaning: 'An object in the schema reaches outside the database.',
    cause: 'An extension or a function calls other systems. A rehearsal must not do that.',
    fix: 'Exclude its table, or replace the object in the clone.',
  },
  'mask.rule-failed': {
    meaning: 'The rule for a column failed.',
    cause: 'Its SQL is invalid, or its result does not fit the column.',
    fix: 'Correct the rule.',
  },
  'mask.rules-invalid': {
    meaning: 'The rules file has errors.',
    cause: 'It is not valid YAML, or contains an unknown rule or option.',
    fix: 'Correct the lines that the message lists: [masking](masking.md).',
  },
  'mask.rules-misfit': {
    meaning: 'The rules do not match the source. Nothing was copied.',
    cause: "A rule names a column that does not exist, or does not suit the column's type, key or rows.",
    fix: 'Correct the rules file.',
  },
  'mask.rules-unreadable': {
    meaning: 'The rules file cannot be read.',
    cause: 'The path is wrong, or the repository is not checked out.',
    fix: 'Correct `rules`, and run `actions/checkout` before this step.',
  },
  'mask.same-database': {
    meaning: '`from` and `to` are the same database.',
    cause: '`mask` would overwrite the database that it reads.',
    fix: 'Set `to` to an empty database.',
  },
  'mask.schema-failed': {
    meaning: 'Part of the schema cannot be created on the rehearsal source.',
    cause: 'It needs an object in another schema, or masked rows violate a constraint.',
    fix: 'Correct the rules for its columns, exclude its table, or remove the dependency in the clone.',
  },
  'mask.target-fed': {
    meaning: 'A subscription or another feed writes to the rehearsal source.',
    cause: 'Its changes are not masked and would leak personal data into the rehearsal.',
    fix: 'Drop the feed first. Rehearse streaming with generated load.',
  },
  'mask.target-not-allowed': {
    meaning: '`allow-target` does not name the database of `to`.',
    cause: 'The exact name is required, so that a production database is not overwritten.',
    fix: 'Set `allow-target` to the exact name of the rehearsal database.',
  },
  'mask.target-not-empty': {
    meaning: 'The rehearsal source contains objects that `mask` did not create.',
    cause: 'The database is already used for something else.',
    fix: 'Set `to` to an empty database.',
  },
  'mask.target-replica': {
    meaning: 'The rehearsal source is a replica.',
    cause: 'Its rows come from its primary, unmasked.',
    fix: 'Set `to` to a database on a separate primary.',
  },
  'mask.unlisted-columns': {
    meaning: 'Some columns have neither a rule nor a safe class. Nothing was copied.',
    cause: 'They are new, or the rules file is incomplete.',
    fix: 'Paste the lines from the message into the rules file, and choose a rule for each column.',
  },

  'molt.target-not-cockroach': {
    meaning: 'The real MOLT accepts only CockroachDB as the target.',
    cause: '`target` names a PostgreSQL server.',
    fix: 'Set `target` to a CockroachDB cluster.',
  },
  'molt.type-unsupported': {
    meaning: 'This build of molt cannot load a column.',
    cause: "It does not support the column's type.",
    fix: 'Exclude the table, or use a newer build.',
  },
  'molt.unknown-flag': {
    meaning: 'This build of molt does not know a flag.',
    cause: 'One of your settings needs the flag, and the build is older than the flag.',
    fix: 'Remove the setting, or use the version that `setup` installs by default.',
  },

  'observe.degraded': {
    meaning: 'The application is degraded on the target.',
    cause: 'Latency, failures, retries or another measure exceeds its threshold. The message lists each.',
    fix: 'Fix the causes and run `observe` again, or roll back while the rollback window is open.',
  },
  'observe.inconclusive': {
    meaning: 'It is unclear whether the application is healthy on the target.',
    cause: 'Too few calls were seen, or the data of one side could not be read. The message lists each gap.',
    fix: 'Fix what the message lists, and run `observe` again.',
  },

  'output.secret': {
    meaning: 'An output would contain a secret.',
    cause:
      'The secret is part of a name, such as the name of the database or of the migration. GitHub silently drops such an output.',
    fix: 'Rename the object, or change the secret.',
  },

  'password.command-failed': {
    meaning: '`password-command` printed no password.',
    cause: 'The program is missing, failed, took longer than 30 s, or printed nothing or several lines.',
    fix: 'Run the program on the runner with `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` set as in the job. It must print one line.',
  },
  'password.not-for-tools': {
    meaning: 'The password from `password-command` is short-lived, and this step starts MOLT.',
    cause: 'MOLT opens new connections until the step ends. A short-lived password expires before then.',
    fix: 'Use a login with a password in the URL for this step. If the password lasts as long as the job, set `password-lasts: job`: [managed PostgreSQL](managed-postgresql.md#passwords-from-iam).',
  },

  'pause.estimate-too-long': {
    meaning: 'The write pause would take longer than `max-pause`. Nothing was paused.',
    cause: 'The measured parts of the pause add up to more than `max-pause`.',
    fix: 'Raise `max-pause`, lower `final-verify`, or rehearse again on a quieter machine.',
  },
  'pause.too-long': {
    meaning: 'Writes were paused for longer than `max-pause`, so the fence was lifted.',
    cause: 'The part that the message names took too long.',
    fix: 'Raise `max-pause`, or lower `final-verify`.',
  },

  'preflight.blocked': {
    meaning: 'Checks of `prepare` found problems.',
    cause: 'The message and the summary list each finding with its fix: [all checks](checks.md).',
    fix: 'Fix each finding, or waive it by name, and run `prepare` again.',
  },

  'prepare.no-tables': {
    meaning: 'No tables are selected.',
    cause: 'The schema is empty, or `tables` and `exclude-tables` leave nothing.',
    fix: 'Correct `schema`, `tables` or `exclude-tables`.',
  },
  'prepare.other-plan': {
    meaning: 'This migration was prepared with a different plan.',
    cause: 'The tables, the schemas or the slot differ from that plan.',
    fix: 'To start over, run `abort` first. For a different source, set a different `migration`.',
    next: { action: 'abort' },
  },
  'prepare.plan-fixed': {
    meaning: 'The plan can no longer be changed.',
    cause: 'Rows have already been loaded with this plan.',
    fix: 'Restore the settings that the message lists, or run `abort` and `prepare` again.',
    next: { action: 'abort' },
  },

  'publication.changed': {
    meaning: 'The publication was altered on the source.',
    cause: 'A table was removed, or removed and added again. The stream may have missed changes in between.',
    fix: 'Abort, then prepare and load again.',
  },
  'publication.dropped': {
    meaning: 'The publication was dropped.',
    cause: 'Someone dropped it. Creating it again does not repair the stream of an existing slot.',
    fix: 'Abort, then prepare and load again.',
    next: { action: 'abort' },
  },
  'publication.foreign': {
    meaning: "A publication with MOLT's fixed name already exists.",
    cause: 'It belongs to another load of this database, and MOLT would drop it.',
    fix: 'Finish that migration, or drop the publication.',
  },
  'publication.unfit': {
    meaning: 'The publication does not send exactly what the stream needs.',
    cause: 'It lacks a table, has additional tables, or filters rows, columns or operations.',
    fix: 'Correct the publication, and load again: the stream may have missed changes.',
  },

  'rehearse.invalid-option': {
    meaning: '`npm run rehearse` was given invalid options.',
    cause: 'An option is misspelled, has an invalid value, or conflicts with another option.',
    fix: 'Run `npm run rehearse -- --help`.',
  },
  'rehearse.source-not-allowed': {
    meaning: '`--allow-source` does not name the database of `--source`.',
    cause: 'A rehearsal pauses writes to this database for a few seconds.',
    fix: 'If that is acceptable, add `--allow-source` with the exact name of the database.',
  },

  'rollback.inconclusive': {
    meaning: 'It is unknown whether the target was written to since the commit.',
    cause: 'Some tables could not be compared.',
    fix: 'Fix what the message lists. To accept the loss of writes instead, stop the application and name each table in `accept-data-loss`.',
  },
  'rollback.not-fenced': {
    meaning: 'The source is not fenced permanently, so nothing can be rolled back safely.',
    cause: 'No cutover was committed, or the fence was removed and both databases may have new rows.',
    fix: 'Find out which database the application uses.',
  },
  'rollback.target-written': {
    meaning: 'The target was written to since the commit.',
    cause: 'The application uses the target. A rollback does not copy these writes to the source.',
    fix: 'To accept their loss, stop the application and name each table in `accept-data-loss`.',
  },
  'rollback.writers': {
    meaning: 'Roles could still write to the target after the rollback.',
    cause:
      'A role owns a table, or the migration user cannot revoke the privileges that another role granted. Writes of these roles would be lost.',
    fix: 'As an administrator, run the statements from the message on the target. Then run `rollback` again.',
    next: { action: 'rollback' },
  },

  'runner.action-missing': {
    meaning: 'The local runner cannot find an action.',
    cause: 'The path is wrong, or the action is not checked out.',
    fix: 'Correct `uses`.',
  },
  'runner.invalid-action': {
    meaning: 'An action file is invalid.',
    cause: 'GitHub would refuse it as well.',
    fix: 'Fix what the message lists.',
  },
  'runner.outside-repository': {
    meaning: 'A step uses an action outside the repository.',
    cause: 'The path points outside the checkout.',
    fix: 'Move the action into the repository.',
  },
  'runner.unsupported': {
    meaning: 'The local runner does not support a feature.',
    cause: 'It supports only composite and JavaScript actions, with the shells bash and sh.',
    fix: 'Run this workflow on GitHub.',
  },

  'schema.changed': {
    meaning: 'The schema has changed since `prepare`.',
    cause: 'DDL ran on the source or on the target. DDL is frozen from the load to the cutover.',
    fix: 'Undo the change. Otherwise abort, then prepare and load again.',
    next: { action: 'abort' },
  },

  'sequences.not-set': {
    meaning: 'Sequences could not be set on the target.',
    cause: 'A privilege or a sequence is missing. The next insert could collide with an existing row.',
    fix: 'Fix what the message lists, and run the step again.',
  },

  'setup.archive-damaged': {
    meaning: 'The downloaded archive is damaged.',
    cause: 'The download was cut short, or a proxy changed it.',
    fix: 'Run the step again.',
  },
  'setup.digest-mismatch': {
    meaning: "The archive's SHA-256 digest does not match the pinned one.",
    cause: 'The file was replaced, or a proxy changed it.',
    fix: 'Find out why before you use the archive.',
  },
  'setup.digest-unknown': {
    meaning: 'This suite has no SHA-256 digest for this archive.',
    cause: 'This version of MOLT is not pinned.',
    fix: 'Check the archive, and set `checksum` to the value in the message.',
  },
  'setup.download-failed': {
    meaning: 'MOLT could not be downloaded.',
    cause: 'The version does not exist, or the runner cannot reach the host.',
    fix: 'Check the version and the network, or set `bin-dir`.',
  },
  'setup.platform': {
    meaning: 'MOLT is not built for this platform.',
    cause: 'The runner has a different operating system or processor architecture.',
    fix: 'Use a Linux, macOS or Windows runner on amd64 or arm64.',
  },
  'setup.programs-missing': {
    meaning: 'A program in `bin-dir` is missing or not executable.',
    cause: 'The folder must contain both molt and replicator for this platform.',
    fix: 'Correct `bin-dir`, or make the files executable.',
  },
  'setup.version-denied': {
    meaning: 'This version of MOLT is on the deny list.',
    cause: 'It has a bug that can lose rows.',
    fix: 'Use another version, or name it in `allow-denied-version`.',
  },

  'slot.earlier-replicator': {
    meaning: 'A replicator from an earlier run keeps taking the slot.',
    cause: "The replicator's job or machine is still running.",
    fix: 'End that job or machine, and run the step again.',
  },
  'slot.foreign': {
    meaning: 'A slot with this name already exists on the source and does not belong to this migration.',
    cause:
      'Another database on the server, a standby or another tool uses the name in `slot`, or that name with `_verify` appended.',
    fix: 'Run `abort`, then `prepare` with a different `slot`.',
  },
  'slot.in-use': {
    meaning: 'Another process is reading the slot.',
    cause: 'A load, a replicator or a program outside this suite is connected.',
    fix: 'End that process. The changes that it has read from the slot are lost to the stream, so run `status`, and verify.',
  },
  'slot.missing': {
    meaning: 'The slot does not exist.',
    cause: 'Someone dropped it, or the source failed over. The stream has lost all changes since then.',
    fix: 'Abort, then prepare and load again. After an interrupted load, set `on-interrupted: restart`.',
    next: { action: 'abort' },
  },
  'slot.moved': {
    meaning: "The slot's position is not where this migration left it.",
    cause: 'Someone recreated, advanced or read it. The stream has lost changes.',
    fix: 'Load again. After an interrupted load, set `on-interrupted: restart`.',
    next: { action: 'fetch', inputs: { 'on-interrupted': 'restart' } },
  },
  'slot.none-free': {
    meaning: 'The source has no free replication slot.',
    cause: '`max_replication_slots` is reached.',
    fix: 'Raise `max_replication_slots` on the source, or drop unused slots.',
  },
  'slot.recreated': {
    meaning: 'The slot was recreated during the stream.',
    cause: 'Someone dropped it and created it again. The stream has lost the changes in between.',
    fix: 'Abort, then prepare and load again.',
    next: { action: 'abort' },
  },
  'slot.wal-budget': {
    meaning: 'The slot retains more WAL on the source than `wal-budget` allows.',
    cause: 'Nothing reads the slot, or the stream is slower than the writes.',
    fix: 'Start `phase: cutover`, run `replicate`, or raise the budget. Abort before the disk is full.',
    next: { action: 'replicate' },
  },
  'slot.wal-lost': {
    meaning: 'The slot has lost WAL that the stream needs.',
    cause: 'The source removed it: `max_slot_wal_keep_size` is too small.',
    fix: 'Raise `max_slot_wal_keep_size` and abort. Then prepare and load again.',
    next: { action: 'abort' },
  },

  'source.other-database': {
    meaning: 'The source is not the database that `prepare` saw.',
    cause: 'The URL was changed, the server failed over, or the database was restored.',
    fix: 'Correct the URL, or prepare a new migration.',
  },
  'source.row-level-security': {
    meaning: 'Row-level security hides rows from the migration user.',
    cause:
      'A policy applies to this user, and the user lacks BYPASSRLS. Hidden rows would be neither moved nor compared.',
    fix: 'Run the ALTER ROLE statement from the message as a superuser. If rows were hidden during the load, load again.',
  },
  'source.taken': {
    meaning: 'The source belongs to another migration.',
    cause: "A source database can have only one migration at a time, because the name of MOLT's publication is fixed.",
    fix: 'Run `cleanup` for that migration first.',
  },
  'source.truncated': {
    meaning: 'A table was emptied by TRUNCATE on the source.',
    cause: 'The replicator does not apply a TRUNCATE, even if it ran while no stream was active.',
    fix: 'Load again. Empty tables with DELETE until the cutover is over.',
  },
  'source.version-unsupported': {
    meaning: 'MOLT does not support this PostgreSQL version.',
    cause: '`molt verify` supports PostgreSQL 12 to 16.',
    fix: 'Upgrade the source, or migrate from a logical replica of it.',
  },

  'status.unreadable': {
    meaning: 'The source, the target or both could not be read.',
    cause: 'The message lists each error with its code.',
    fix: 'Fix these errors, and run `status` again.',
  },

  'stream.login-alive': {
    meaning: 'The login of an earlier streaming job could not be revoked.',
    cause: 'A role `molt_leg_…` on the target can still log in, or one of its sessions is still open.',
    fix: 'Run the ALTER ROLE statement from the message on the target, end the sessions of that role, and run the step again.',
  },
  'stream.not-continuous': {
    meaning: 'The stream cannot continue where the last stream ended.',
    cause: 'The slot, its position or the publication has changed since then. Changes would be lost silently.',
    fix: 'Load again.',
  },
  'stream.stuck.check': {
    meaning: 'The stream is stuck: a constraint on the target rejects a row.',
    cause: 'The target has a CHECK or another constraint that the source does not have.',
    fix: 'Drop that constraint on the target until after the drain.',
  },
  'stream.stuck.column': {
    meaning: 'The stream is stuck: the columns of a table differ between source and target.',
    cause: 'A column was added, dropped or renamed on one side.',
    fix: 'Make the same change on the other side. The stream continues within a minute.',
  },
  'stream.stuck.connection': {
    meaning: 'The stream is stuck: the replicator cannot reach a database.',
    cause: 'The network or the server is down, or the login fails.',
    fix: 'Restore the connection that the message names.',
  },
  'stream.stuck.connection-limit': {
    meaning: 'The stream is stuck: a server has no free connection slot for the replicator.',
    cause:
      'A limit is reached: `max_connections`, or the CONNECTION LIMIT of the role or the database. It may have been set since `prepare`.',
    fix: 'Close idle connections, or raise that limit. The stream then continues automatically.',
  },
  'stream.stuck.contention': {
    meaning: 'The stream is stuck: a transaction on the target keeps being retried.',
    cause: 'Other sessions write to the same rows.',
    fix: 'Stop other writers on the target.',
  },
  'stream.stuck.foreign-key': {
    meaning: 'The stream is stuck: a foreign key on the target rejects a change.',
    cause: 'The replicator does not apply changes in the order that foreign keys require.',
    fix: 'Drop the foreign key on the target until after the drain.',
  },
  'stream.stuck.identity': {
    meaning: 'The stream is stuck: the keys of a table do not match.',
    cause: 'REPLICA IDENTITY is not DEFAULT, or the primary keys differ.',
    fix: 'Set REPLICA IDENTITY DEFAULT, and give both sides the same primary key.',
  },
  'stream.stuck.identity-always': {
    meaning: 'The stream is stuck: a target column is GENERATED ALWAYS AS IDENTITY.',
    cause: 'Such a column rejects the values from the source.',
    fix: 'Run `prepare` or `verify` with `level: tables`, which print the statement for each such column, and run it on the target.',
  },
  'stream.stuck.lock': {
    meaning: 'The stream is stuck: its session on the target is waiting for a lock.',
    cause: 'Another session holds the lock.',
    fix: 'End the session that the message names.',
  },
  'stream.stuck.missing-table': {
    meaning: 'The stream is stuck: a table is missing on the target.',
    cause: 'It was dropped there, or never created.',
    fix: 'Create the table.',
  },
  'stream.stuck.name-collision': {
    meaning: 'The stream is stuck: two column names differ only in case.',
    cause: 'The replicator cannot distinguish them.',
    fix: 'Rename one of the columns.',
  },
  'stream.stuck.no-key': {
    meaning: 'The stream is stuck: a target table has no primary key.',
    cause: 'Without a key the replicator cannot find rows.',
    fix: "Give the target table the source's primary key.",
  },
  'stream.stuck.not-null': {
    meaning: 'The stream is stuck: a target column does not accept NULL.',
    cause: 'The source allows NULL there.',
    fix: 'Drop NOT NULL on the target.',
  },
  'stream.stuck.other': {
    meaning: 'The stream is stuck for an unknown reason.',
    cause: 'The replicator keeps retrying the same change, falls behind, or prints nothing.',
    fix: "Read the replicator's last line in the message. Its complete log is in the evidence folder.",
  },
  'stream.stuck.permission': {
    meaning: "The stream is stuck: the replicator's role lacks a privilege.",
    cause: 'The privilege was never granted, or was revoked.',
    fix: 'Grant the privilege that the message names.',
  },
  'stream.stuck.publication': {
    meaning: 'The stream is stuck: its publication no longer exists.',
    cause: 'Someone dropped it. Creating it again does not repair the stream.',
    fix: 'Abort, then prepare and load again.',
  },
  'stream.stuck.read-only': {
    meaning: 'The stream is stuck: the target is read-only.',
    cause: 'A setting of the database or of the role forbids writes.',
    fix: 'Make the target writable for the migration user.',
  },
  'stream.stuck.schema-name': {
    meaning: "The stream is stuck: the target's database or schema does not exist.",
    cause: 'It was dropped or renamed.',
    fix: 'Restore it.',
  },
  'stream.stuck.slot-busy': {
    meaning: 'The stream is stuck: another process is reading the slot.',
    cause: 'A replicator from another run, or another program, is connected.',
    fix: 'End that process.',
  },
  'stream.stuck.slot-gone': {
    meaning: 'The stream is stuck: the slot does not exist.',
    cause: 'Someone dropped it, or the source failed over.',
    fix: 'Abort, then prepare and load again.',
  },
  'stream.stuck.slot-invalid': {
    meaning: 'The stream is stuck: the source has removed WAL that the slot needs.',
    cause: '`max_slot_wal_keep_size` is too small.',
    fix: 'Raise `max_slot_wal_keep_size` and abort. Then prepare and load again.',
  },
  'stream.stuck.timeout': {
    meaning: 'The stream is stuck: a server timeout ends its session or its statements.',
    cause: 'A timeout is set for the role, the database or the server. It may have been set since `prepare`.',
    fix: 'Set that timeout to 0 for the migration user, as in `ALTER ROLE CURRENT_USER SET statement_timeout = 0;`. The stream continues when it reconnects.',
  },
  'stream.stuck.toast': {
    meaning: 'The stream is stuck: an UPDATE left a large (TOASTed) value unchanged.',
    cause: 'This replicator cannot apply such an UPDATE.',
    fix: 'Use a newer replicator, or let the application write that column in every UPDATE.',
  },
  'stream.stuck.trigger': {
    meaning: 'The stream is stuck: code on the target rejects a change.',
    cause:
      'A trigger on an expected table, or its function, raised an exception. A deferred trigger raises it at the commit.',
    fix: "Disable the table's triggers on the target until after the drain. `SHOW TRIGGERS FROM` lists the triggers of a table.",
  },
  'stream.stuck.truncate': {
    meaning: 'The stream is stuck: a table was truncated on the source.',
    cause: 'The replicator cannot apply a TRUNCATE.',
    fix: 'Load again. Empty tables with DELETE until the cutover is over.',
  },
  'stream.stuck.type': {
    meaning: 'The stream is stuck: a value does not fit its column on the target.',
    cause: 'The types differ, or the replicator cannot apply the type.',
    fix: 'Give both sides the same type, exclude the table, or use another version of the replicator.',
  },
  'stream.stuck.unique': {
    meaning: 'The stream is stuck: a unique index on the target rejects a change.',
    cause: 'A unique value moved from one row to another.',
    fix: 'Drop that index on the target until after the drain.',
  },

  'target.table-offline': {
    meaning: 'An expected table is offline on the target.',
    cause: 'An import is using it. The catalogs do not list such a table, and every statement on it fails.',
    fix: 'Wait until the job that the message names has finished, or cancel it with `CANCEL JOB`. Then run the step again.',
  },

  'tool.failed': {
    meaning: 'A MOLT program failed.',
    cause: 'The message contains the last line that the program printed.',
    fix: "Read the program's log in the evidence folder.",
  },
  'tool.killed': {
    meaning: 'A MOLT program was killed by a signal.',
    cause: 'The machine ran out of memory, or someone killed the process.',
    fix: "Check the runner's memory and kernel log, and run the step again.",
  },
  'tool.not-installed': {
    meaning: 'A MOLT program is not on the PATH.',
    cause: '`setup` did not run in this job.',
    fix: 'Run `setup` before this step in the same job.',
  },
  'tool.not-started': {
    meaning: 'A program could not be started.',
    cause: 'The file is not executable, or not built for this platform.',
    fix: 'Check the file, or run `setup`.',
  },
  'tool.stalled': {
    meaning: 'A MOLT program printed nothing for `stall-after` and was killed.',
    cause:
      'It is waiting for a lock, or the runner is out of memory or disk. A large IMPORT INTO also prints nothing for a long time.',
    fix: 'Look for locks on the source and the target. For very large tables, raise `stall-after`.',
  },
  'tool.unusable': {
    meaning: 'A MOLT program does not respond.',
    cause: 'The file is damaged, or not built for this platform.',
    fix: 'Run `setup`, or check the file.',
  },

  'tools.not-planned': {
    meaning: 'A MOLT program differs from the one in the plan.',
    cause: 'This runner has a different build than the one that was rehearsed and approved.',
    fix: 'Set the same `version` and `checksum` for all jobs. If you want this build and nothing has been loaded yet, run `prepare` with `waive: tool.version=molt`.',
  },

  'verify.after-commit': {
    meaning: 'Rows differ between the source and the target as of the commit.',
    cause:
      'An administrator changed the target between the final verification and the commit, or the final verification was weaker than `full`.',
    fix: 'Stop the application and run `rollback`, or restore the rows by hand: [after the commit](how-it-works.md#after-the-commit).',
    next: { action: 'rollback' },
  },
  'verify.after-commit-inconclusive': {
    meaning: 'Not every row was compared as of the commit.',
    cause:
      'The target has discarded the rows as of the commit (`gc.ttlseconds`), a table or a privilege is missing, or the ledger lacks the time of the commit.',
    fix: 'Fix what the message lists and run `finalize` again. To accept the gap, set `waive: compare` in `cleanup`.',
  },
  'verify.differences': {
    meaning: 'Source and target differ.',
    cause:
      'During streaming, a difference can be lag, unless `while: streaming` ruled that out. After the drain, it is a loss. One known cause: molt creates its slot before it takes its snapshot. If a transaction is waiting for a synchronous standby at that time, neither the stream nor the snapshot contains it.',
    fix: 'Set `while: streaming`, or verify after the drain. Do not cut over while rows differ. If rows are lost, load again.',
  },
  'verify.inconclusive': {
    meaning: 'No loss was found, but source and target are not proved equal.',
    cause:
      'Rows kept changing, a privilege is missing, or a table could not be compared. The message lists each problem.',
    fix: 'Fix what the message lists. Verify again under less load, or after the drain.',
  },
  'verify.not-provable': {
    meaning: '`final-verify: changed` requires a complete rolling proof, and this one is incomplete.',
    cause:
      'The change log cannot be read, the source changes faster than the log is read, or other roles can write to the target.',
    fix: 'Set `final-verify: auto`. Without a complete proof, it compares every row in the write pause.',
  },
  'verify.rows-lost': {
    meaning: 'Rows differ after the drain. Nothing was committed.',
    cause: 'After the drain no changes are in flight, so rows were lost.',
    fix: 'Do not cut over. Find the cause and abort. Then prepare and load again. If only the hashes differ, MOLT misreads values: use a newer MOLT.',
    next: { action: 'abort' },
  },

  'waiver.not-allowed': {
    meaning: 'A check cannot be waived.',
    cause: 'A later step would fail anyway.',
    fix: 'Fix what the check found.',
  },
  'waiver.unknown-check': {
    meaning: '`waive` names an unknown check.',
    cause: 'The name is misspelled.',
    fix: 'Use a name from [the list of checks](checks.md).',
  },
  'waiver.unused': {
    meaning: 'A waiver matches nothing.',
    cause: 'The object is misspelled, or the problem no longer exists.',
    fix: 'Remove the waiver, or correct its object.',
  },

  'write-access.granted-early': {
    meaning: 'Roles can write to the target, which must stay read-only until the commit.',
    cause: 'Someone has granted privileges since `prepare`.',
    fix: 'Revoke the privileges that the message lists, and verify again.',
  },
  'write-access.missing': {
    meaning: 'The migration is committed, but write access to the target could not be restored.',
    cause:
      'The target rejected or interrupted a GRANT, or could not be reached. For example, the migration user lost its grant option after the last check, or a role was dropped.',
    fix: 'As an administrator, run the statements from the message on the target. Then run `cutover` again, or `rollback` to return to the source.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'write-access.not-closed': {
    meaning: 'Write access to the target was never revoked.',
    cause: '`prepare` was interrupted.',
    fix: 'Run `prepare` again.',
    next: { action: 'prepare' },
  },
  'write-access.not-grantable': {
    meaning: 'The migration user could not restore write access to the target after the commit.',
    cause:
      'To restore a privilege, the migration user needs the grant option, ownership of the object, or the role admin. To restore ALL, it needs ALL WITH GRANT OPTION.',
    fix: 'As an administrator, run the statements from the message on the target. Then run the step again.',
  },
  'write-access.not-restored': {
    meaning: 'Write access to the target could not be restored when the migration ended.',
    cause: 'The target rejected a GRANT, or could not be reached. The ledger keeps the list of missing privileges.',
    fix: 'As an administrator, run the statements from the message on the target. Then run the step again.',
  },
  'write-access.not-revocable': {
    meaning: 'Roles can write to the target until the commit, and no REVOKE changes that.',
    cause: 'Since `prepare`, a role became the owner of a table, or a member of its owner or of the migration user.',
    fix: 'As an administrator, run the statements from the message on the target, and verify again.',
  },
  'write-access.not-revoked': {
    meaning: 'Write access on the target could not be revoked.',
    cause: 'Another role granted it.',
    fix: 'Revoke the privileges that the message lists, or set `write-access: waive`.',
  },
  'write-access.role-gone': {
    meaning: 'A role that had write access to the target no longer exists.',
    cause:
      'Someone dropped the role after `prepare` had revoked its write access. The application could not use it after the commit.',
    fix: 'Create the role again. If nothing has been loaded yet, you can run `prepare` again instead: it then no longer expects the role.',
  },
} as const satisfies Record<string, Explanation>

export type ErrorCode = keyof typeof CODES
