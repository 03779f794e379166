/** What a person runs next. */
export interface NextStep {
  /** Folder in `actions/`. */
  action: string
  /** Inputs beside the connections and the migration's name. */
  inputs?: Readonly<Record<string, string>>
  /** What to do first, as an imperative with its full stop. */
  before?: string
}

/** What the documentation says about one code. */
export interface Explanation {
  /** What happened, in one sentence. */
  meaning: string
  /** Why it happens. */
  cause: string
  /** What to do, as an imperative. */
  fix: string
  /** Set when the fix is another action than the one that failed. */
  next?: NextStep
}

/**
 * Every code that an error can have, by topic: the part before the first dot. `docs/troubleshooting.md` is generated
 * from it. A code is stable: people's workflows branch on the output `error-code`.
 */
export const CODES = {
  'abort.committed': {
    meaning: 'The migration is committed and cannot be aborted.',
    cause: 'The cutover has committed to the target, which may already have application data.',
    fix: 'Run `rollback` to return to the source, or `cutover` again to finish the switch.',
    next: { action: 'rollback' },
  },
  'abort.incomplete': {
    meaning: 'The migration is aborted, but parts of it remain.',
    cause: 'The message lists what failed, each with the code of its own error.',
    fix: 'Correct what the message lists, then run `abort` again.',
  },

  'approval.any-branch': {
    meaning: 'An environment admits any branch.',
    cause: 'Without a branch rule, anyone who can push a branch can run an edited workflow there, with its secrets.',
    fix: 'Limit the deployment branches of the environment to the default branch: [environments](environments.md).',
  },
  'approval.bypass-possible': {
    meaning: 'Administrators can bypass the reviewers of the environment.',
    cause:
      '"Allow administrators to bypass configured protection rules" is ticked, and `admins-can-bypass` is `refuse`.',
    fix: 'Untick it in the settings of the environment, or set `admins-can-bypass: warn`.',
  },
  'approval.declined': {
    meaning: 'The cutover was declined, or not approved in time.',
    cause: 'A reviewer rejected the deployment, or `max-approval-wait` passed.',
    fix: "Start Migrate with `phase: cutover`. If the slot was dropped (`on-declined: drop-slot`), run Abort, then start with `phase: prepare`: [start over](runbook.md#abort-before-the-commit). A slot that is kept fills the source's disk until a stream reads it.",
    next: { action: 'cutover' },
  },
  'approval.environment-missing': {
    meaning: 'The environment named by `environment` does not exist.',
    cause:
      'The name is misspelled, or the environment was never created. GitHub creates a missing one without any rule.',
    fix: 'Create the environment with required reviewers: [environments](environments.md).',
  },
  'approval.follower-failed': {
    meaning: 'The `follow` job of this run failed, so its stream cannot be trusted.',
    cause: 'The job that streams while the cutover waits for approval ended red.',
    fix: 'Read the log of that job, correct the cause, and start a new run with `phase: cutover`.',
    next: { action: 'cutover' },
  },
  'approval.gh-missing': {
    meaning: 'The program `gh` cannot be run.',
    cause: 'A self-hosted runner lacks the GitHub CLI, which checks the signatures of rehearsals.',
    fix: 'Install `gh` on the runner.',
  },
  'approval.missing': {
    meaning: 'This run reached the cutover without an approval that counts.',
    cause:
      'An administrator bypassed the rule, the rule was removed, or "Re-run" was used: an approval counts for one attempt.',
    fix: 'Start a new run with `phase: cutover` and have it approved, or set `bypass: warn`.',
    next: { action: 'cutover' },
  },
  'approval.no-reviewers': {
    meaning: 'The environment has no required reviewers.',
    cause: 'An environment without reviewers lets every run through.',
    fix: 'Add required reviewers to the environment: [environments](environments.md).',
  },
  'approval.not-rehearsed': {
    meaning: 'Too few green rehearsals of this plan count.',
    cause: 'The plan changed since the last rehearsal, or rehearsals failed, are too old, or ran on another branch.',
    fix: 'Run the rehearsal workflow on the default branch. The log names each run that does not count, and why: [what counts](environments.md#only-rehearsed-plans).',
  },
  'approval.over': {
    meaning: 'This approval was already declined or has expired.',
    cause: 'The follower saw the end of the approval and stopped streaming.',
    fix: 'Start a new run with `phase: cutover`.',
    next: { action: 'cutover' },
  },
  'approval.plan-changed': {
    meaning: 'The plan in the ledger is not the one that was approved.',
    cause: '`prepare` ran after the plan was shown to the reviewers.',
    fix: 'Start a new run with `phase: cutover` and approve the plan that it shows.',
    next: { action: 'cutover' },
  },
  'approval.plan-not-shown': {
    meaning: 'No earlier run showed this plan, or it is older than `max-approval-wait`.',
    cause: 'With `gate: plan-hash` the first run shows the plan, and the second one carries its hash.',
    fix: 'Start a run with an empty `approved-hash`, read its brief, and start another one with the hash.',
  },
  'approval.required': {
    meaning: 'A commit needs an approval.',
    cause: '`gate: none` was set together with `decision: commit`.',
    fix: 'Set `gate: environment`, or `gate: plan-hash` where your plan has no required reviewers.',
  },
  'approval.same-person': {
    meaning: 'One person both started and approved this cutover.',
    cause: 'Two people are required: one starts the run, another approves it.',
    fix: 'Have another person start or approve it, or set `self-approval: warn`.',
  },
  'approval.weaker-verify': {
    meaning: '`final-verify` asks for less than the approved plan promises.',
    cause: 'The input was lowered after the approval.',
    fix: 'Leave `final-verify` out, or run `prepare` with the weaker level and have that plan approved.',
  },
  'approval.wrong-hash': {
    meaning: '`approved-hash` is not the hash of the plan.',
    cause: 'The hash was mistyped, or the plan changed since the brief.',
    fix: 'Copy the hash from the brief of the run that you approve.',
  },

  'brief.not-ready': {
    meaning: 'The migration is not ready for the cutover.',
    cause: 'The stream has not caught up, a check failed, or the slot is lost. The message lists each problem.',
    fix: 'Start Migrate with `phase: stream`. If the slot is lost, run Abort, then start with `phase: prepare`.',
    next: { action: 'replicate' },
  },

  'cancelled.after-commit': {
    meaning: 'The run ended after the commit.',
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
    cause: 'The runner died or lost its machine.',
    fix: 'Run the step again on a healthy runner.',
  },

  'change-log.key-missing': {
    meaning: 'The change log does not contain the key of a changed row.',
    cause: "The table's replica identity is not its primary key.",
    fix: 'Set the replica identity of the table to DEFAULT on the source, or compare the table in full.',
  },
  'change-log.truncate': {
    meaning: 'A table was truncated on the source while its changes were logged.',
    cause: 'A TRUNCATE lists no keys.',
    fix: 'Compare the table in full.',
  },

  'cleanup.degraded': {
    meaning: 'The last observation after the commit is degraded.',
    cause: 'A threshold of `observe` was exceeded, so a rollback may still be needed. The message lists each.',
    fix: 'Run `observe` until it is healthy, roll back, or set `waive: observe`: [observe](observe.md).',
    next: { action: 'observe' },
  },
  'cleanup.fence-armed': {
    meaning: 'The fence is armed, so nothing is cleaned up.',
    cause: 'A cutover is in progress, or the fence was raised by hand.',
    fix: 'Wait for the cutover, or lift the fence with `fence`.',
  },
  'cleanup.foreign-objects': {
    meaning: "An object cannot be dropped because other users' objects depend on it.",
    cause: 'Someone created tables, views or functions inside a schema of this suite, or built on one of its objects.',
    fix: 'Move or drop the objects that the message names, and run the step again.',
  },
  'cleanup.incomplete': {
    meaning: 'Some objects still exist after the cleanup.',
    cause: 'Locks or another run kept them.',
    fix: 'Run `cleanup` again.',
  },
  'cleanup.not-compared': {
    meaning: 'Rows were not compared since the commit.',
    cause: '`finalize` has not run, or did not get that far. Once the fence is gone, nothing can be compared.',
    fix: 'Run `finalize`, or set `waive: compare`: [after the commit](how-it-works.md#after-the-commit).',
    next: { action: 'finalize' },
  },
  'cleanup.not-observed': {
    meaning: 'The application was not observed after the commit.',
    cause: 'Without an observation it is not known whether a rollback is still needed.',
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
    cause: '`migration` names a different migration than the one that `prepare` registered on this source.',
    fix: 'Set `migration` to the name that the message shows.',
  },
  'cleanup.rollback-window': {
    meaning: 'The rollback window is still open.',
    cause: 'Until it closes, the fenced source is the way back.',
    fix: 'Wait until the time that the message names, or set a shorter `rollback-window`.',
  },
  'cleanup.rows-differ': {
    meaning: 'Rows differ between the source and the target as of the commit.',
    cause: '`finalize` compared all rows after the commit. The fenced source is the only place that has these rows.',
    fix: 'Roll back, or restore the rows by hand and set `waive: compare`: [after the commit](how-it-works.md#after-the-commit).',
  },

  'cli.invalid-option': {
    meaning: '`npm run action` does not understand an option.',
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
    cause: '`pause-command`, `probe-command`, `undo-command` or `switch-command` ended with an exit code other than 0.',
    fix: 'Read its output in the log, correct it, and run the step again.',
  },
  'command.timeout': {
    meaning: 'Your command did not end in time and was stopped.',
    cause: 'It took longer than the timeout input of the same name.',
    fix: 'Make it faster, or raise its timeout.',
  },

  'commit.no-timestamp': {
    meaning: 'The target does not report its time, so rows could not be compared as of the commit.',
    cause:
      '`cluster_logical_timestamp()` failed. It needs serializable transactions, and SELECT on the heartbeat table.',
    fix: 'Where the role has another isolation, run the ALTER ROLE statement that the message shows on the target. Otherwise run `prepare` with `grants: print`, and grant what is missing.',
  },
  'commit.retention-short': {
    meaning: 'The target would forget the state of the commit before it can be compared. Nothing was committed.',
    cause: '`gc.ttlseconds` is short for the time that a comparison of all rows takes.',
    fix: 'Run the `CONFIGURE ZONE` statement that the message shows, until the migration is finalized.',
  },

  'config.invalid': {
    meaning: 'A section of the config file is not a map.',
    cause: 'The YAML is indented wrongly, or the section holds a list or a plain value.',
    fix: 'Write the section as `input: value` lines. `docs/config.schema.json` describes all of them.',
  },
  'config.secret-in-file': {
    meaning: 'The config file contains a plain-text secret.',
    cause: 'An input that is a secret was written as a value.',
    fix: 'Write `env:NAME`, pass the secret in the environment variable NAME, and change the secret.',
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
    fix: "Renew the certificate, or set the runner's clock.",
  },
  'connect.certificate-host': {
    meaning: "The server's certificate is for another host.",
    cause: 'The URL names the server differently than its certificate does.',
    fix: 'Write the host in the URL as the certificate has it.',
  },
  'connect.certificate-untrusted': {
    meaning: "The server's certificate is not signed by an authority that this runner trusts.",
    cause: 'The certificate authority is private to your provider or company.',
    fix: 'Commit the CA file and name it in the URL, as in `sslrootcert=certs/ca.pem`: [environments](environments.md).',
  },
  'connect.failed': {
    meaning: 'A database cannot be reached.',
    cause: 'The host or the port is wrong, the server is down, or a firewall blocks the runner.',
    fix: 'Check host and port, and allow the runner in the firewall.',
  },
  'connect.login-refused': {
    meaning: 'A database refused the login.',
    cause: 'The user or the password is wrong, or `pg_hba.conf` does not allow this client.',
    fix: 'Check the user, the password and `pg_hba.conf`.',
  },
  'connect.no-database': {
    meaning: 'The database that the URL names does not exist.',
    cause: 'The name is misspelled, or the database was dropped.',
    fix: 'Correct the database name in the URL.',
  },
  'connect.no-free-slot': {
    meaning: 'The server has no free connection.',
    cause: 'The connection limit of the role or the database, or `max_connections` is reached. The server names which.',
    fix: 'Close idle connections, or raise that limit: the CONNECTION LIMIT of the role or the database, or `max_connections`.',
  },
  'connect.no-tls': {
    meaning: 'The server does not offer TLS.',
    cause: 'TLS is off on the server, and rows and passwords would travel unencrypted.',
    fix: 'Turn TLS on at the server.',
  },
  'connect.not-allowed': {
    meaning: 'A database does not let this user in.',
    cause: 'The user can log in to the server, but has no CONNECT on this database.',
    fix: 'Grant the user CONNECT on the database (`grants: print` writes the statement).',
  },
  'connect.not-ready': {
    meaning: 'The server is not accepting connections.',
    cause: 'It is starting, shutting down, or recovering (57P03).',
    fix: 'Wait until it has started, then run the step again.',
  },
  'connect.option-refused': {
    meaning: 'A database refused a start-up parameter.',
    cause: '`options` in the URL sets a parameter that this server does not have, or gives it a value that it refuses.',
    fix: 'Remove that parameter from `options` in the URL.',
  },
  'connect.pooler': {
    meaning: 'A pooler between this runner and a database rejects or drops start-up parameters.',
    cause:
      'PgBouncer and similar poolers lend one server session to several clients. Loads, streams and the fence need sessions of their own.',
    fix: 'Write the host and port of the server itself into the URL, such as 5432 instead of 6432.',
  },
  'connect.url-unusable': {
    meaning: 'A connection URL cannot be used.',
    cause: 'A certificate file that it names is missing or damaged, or a parameter is invalid.',
    fix: 'Correct the URL, and make sure that the files exist in the job.',
  },

  'convert.decisions': {
    meaning: 'The file that `decisions` names cannot be used.',
    cause:
      'It does not exist, is not valid YAML, or has a key, table, column, index or constraint that does not exist.',
    fix: 'Correct each line that the message lists. Point your editor to `docs/convert.schema.json`.',
  },
  'convert.object-exists': {
    meaning: 'A statement of `1-tables.sql` met an object of the same name on the target.',
    cause: 'The source has changed since an earlier `apply`, or another user created the object.',
    fix: 'Change the object by hand, or drop it and run `convert` again. `convert` drops nothing.',
  },
  'convert.schema-missing': {
    meaning: 'The source has no schema of this name.',
    cause: 'The input `schema` is misspelled, or the URL names another database.',
    fix: 'Correct `schema`, or the database in the URL.',
  },
  'convert.target-not-empty': {
    meaning: 'The schema on the target has tables that `convert` did not create. Nothing was created.',
    cause: '`target` names a database that is in use, or the tables were created by hand.',
    fix: 'Point `target` at an empty database, or create what is missing from `1-tables.sql` by hand.',
  },
  'convert.too-late': {
    meaning: 'The migration is past `prepare`, so no table is created.',
    cause: '`convert` ran with `apply` after the load had begun.',
    fix: 'Run `convert` without `apply`. To start again, run `abort` and `cleanup` first.',
  },

  'cutover.end-sessions': {
    meaning: 'The sessions that `end-sessions` names cannot be ended. Nothing was paused.',
    cause: 'A role does not exist, or the migration user may not end its sessions.',
    fix: 'Correct the role names, or run the GRANT statement that the message shows on the source.',
  },
  'cutover.like-server': {
    meaning: 'The target only answers like CockroachDB, so a commit is refused. Nothing was paused.',
    cause: 'The migration was prepared for a rehearsal, but the cutover was started with a commit.',
    fix: 'Set `target` to the cluster, or `decision: rehearse`.',
  },

  'database.connection-lost': {
    meaning: 'The connection to a database was lost.',
    cause: 'The server restarted, or the network failed.',
    fix: 'Run the step again. It resumes from the ledger.',
  },
  'database.contention': {
    meaning: 'The target refused the same statement again and again, because of other transactions.',
    cause:
      'Long or many transactions work on the same rows or definitions (40001), or the result of a statement is unknown (40003).',
    fix: 'Stop other schema changes and long transactions on the target, and run the step again.',
  },
  'database.dependent-objects': {
    meaning: 'A database object cannot be dropped because others depend on it.',
    cause: 'A view, a key or code was built on an object of this suite or of the deferral.',
    fix: 'Move or drop what the message names, and run the step again.',
  },
  'database.lock-timeout': {
    meaning: 'A lock was not available in time.',
    cause: 'Another session holds a conflicting lock.',
    fix: 'End that session, or wait for it, and run the step again.',
  },
  'database.missing-right': {
    meaning: 'The migration user lacks a right.',
    cause: 'The right was never granted, or was revoked after `prepare`.',
    fix: 'Grant it. `prepare` with `grants: print` prints every right that is needed.',
  },
  'database.object-busy': {
    meaning: 'A database object cannot be used now.',
    cause: 'A schema change, an import or another session is using it.',
    fix: 'Wait for it, or end it, and run the step again.',
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
    fix: 'Free the resource that the message names, and run the step again.',
  },
  'database.read-only': {
    meaning: 'A database is read-only.',
    cause: 'The server is a standby, its owner or a full disk made it read-only, or a setting of the role did.',
    fix: 'Write the primary into the URL, or make the database writable, and run the step again.',
  },
  'database.refused-by-code': {
    meaning: 'Code of the database refused a statement.',
    cause:
      'A trigger, an event trigger, a rule or an extension raised an exception. An event trigger may forbid schema changes.',
    fix: 'Exempt the migration user in that code, or disable the event trigger for the migration, and run the step again.',
  },
  'database.row-refused': {
    meaning: 'A database refused a value or a row.',
    cause: 'A constraint, a domain or the type of a column does not allow it. The message leaves out values.',
    fix: 'Correct the row or the definition that the message names. The log of the server shows the row.',
  },
  'database.schema-locked': {
    meaning: 'A table of the target is locked against schema changes.',
    cause:
      'CockroachDB creates tables with `schema_locked = true` from 26.1 on. `prepare` unlocks those whose indexes and constraints it defers; another user locked this one later, or it is not part of the migration.',
    fix: 'Run `ALTER TABLE name SET (schema_locked = false)` for the table in the message, then run the step again.',
  },
  'database.server-fault': {
    meaning: 'A database server reported an internal error.',
    cause: 'Its disk fails, a file is damaged, or the server has a bug.',
    fix: 'Read the log of the server, and repair it first.',
  },
  'database.session-timeout': {
    meaning: 'A timeout of the server ended a session.',
    cause:
      'The timeout idle_in_transaction_session_timeout, idle_session_timeout or transaction_timeout is set for the role, the database or the server.',
    fix: 'Set that timeout to 0 for the migration user, as in `ALTER ROLE CURRENT_USER SET idle_session_timeout = 0;`, and run the step again.',
  },
  'database.statement-ended': {
    meaning: 'A database ended a statement.',
    cause:
      'A statement_timeout is set for the role, the database or the server, an operator cancelled it, or the server is shutting down.',
    fix: 'As the migration user, run `ALTER ROLE CURRENT_USER SET statement_timeout = 0;` where one is set, and run the step again.',
  },

  'database.uncategorized': {
    meaning: 'CockroachDB refused a statement with an error of no known kind.',
    cause:
      'It uses SQLSTATE XXUUU for errors without a code of their own: a file or bucket that it cannot read, a row that an import refuses, a schema change that fails.',
    fix: 'Read the message: it names what failed. Correct that, and run the step again.',
  },
  'database.unsupported': {
    meaning: 'A database does not support a statement that this step needs.',
    cause: 'Its version is too old, or a provider has turned the feature off.',
    fix: 'Upgrade the server, or ask its provider to allow what the message names.',
  },

  'deferral.not-captured': {
    meaning: 'Indexes or constraints on the target cannot be captured, so none was dropped.',
    cause: 'A schema change is in progress on the target, or the catalog does not show a definition.',
    fix: 'Wait until the schema changes have ended (`SHOW JOBS`), and run `prepare` again.',
    next: { action: 'prepare' },
  },
  'deferral.not-restored': {
    meaning: 'Deferred unique indexes or constraints could not be built on the target.',
    cause: 'Rows violate their definition, or the target refuses the statement. The message lists each object.',
    fix: 'Correct what the message lists, and run the step again.',
  },
  'deferral.rows-break-definition': {
    meaning: 'An index or constraint cannot be built because rows violate its definition.',
    cause: 'The source has such rows, or its own object is not validated.',
    fix: 'Run the query that the message shows, correct the rows on the source, and run the step again.',
  },
  'deferral.trial-failed': {
    meaning: 'A definition cannot be rebuilt on the target, so nothing was dropped.',
    cause:
      'The server does not accept its own definition, or the migration user lacks a right. The message lists each object.',
    fix: 'Change the definition on the target, or set `defer: none`. `trial: none` skips the trial.',
  },

  'drain.not-proved': {
    meaning: 'It is not proved that the target has everything that was committed on the source.',
    cause: 'The replicator retried or was still applying changes, or changes are in the dead-letter table.',
    fix: 'Correct what the message names, wait until the stream is calm, and run the step again.',
  },
  'drain.replicator-ended': {
    meaning: 'The replicator ended while the drain was being proved, and was started again. Nothing is lost.',
    cause:
      'After SIGKILL the machine ran out of memory or someone ended the process; after an exit code the message has its last error.',
    fix: "Check the machine's kernel log for the out-of-memory killer, and run the step again.",
  },

  'fence.armed-by-other': {
    meaning: 'The fence is armed by a run that does not hold this migration.',
    cause: 'An earlier run died, or the fence was raised by hand.',
    fix: 'Wait until its lease ends, or lift it with `fence`.',
  },
  'fence.cannot-probe': {
    meaning: 'The fence of a table cannot be tested.',
    cause: 'A right is missing, or triggers or rules of the table refuse or replace every write before the fence does.',
    fix: 'Grant DELETE to the migration user, or let it run a DELETE, UPDATE or INSERT that affects no rows.',
  },
  'fence.changed-by-other': {
    meaning: 'Another session lifted or re-armed the fence while this run held it.',
    cause: 'Someone ran `fence`, `abort` or their own SQL. A write may have passed.',
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
    cause: 'Someone lifted the fence or changed its triggers after the decision.',
    fix: 'Look for rows written on the source since then. The message names the tables and the next step.',
  },
  'fence.lapsed': {
    meaning: 'The fence lapsed or was changed just before the commit. Nothing was committed.',
    cause: 'The lease was not renewed in time, or another session changed it.',
    fix: 'Run the cutover again, with a longer `lease` if the machine is slow.',
  },
  'fence.not-holding': {
    meaning: 'The fence does not hold. Writes may have passed.',
    cause: 'Triggers are missing or disabled, or the fence was changed while it was armed.',
    fix: 'Run `prepare` again, and verify everything that was compared behind this fence.',
    next: { action: 'prepare' },
  },
  'fence.not-installed': {
    meaning: 'No fence is installed on the source.',
    cause: '`prepare` has not run, or `cleanup` removed the fence.',
    fix: 'Run `prepare` first.',
    next: { action: 'prepare' },
  },
  'fence.permanent': {
    meaning: 'The fence is permanent: the cutover is committed.',
    cause: 'The target has taken over.',
    fix: 'Run `rollback` to return to the source.',
    next: { action: 'rollback' },
  },
  'fence.permanent-without-commit': {
    meaning: 'The source is fenced permanently, but the ledger has no commit of this migration.',
    cause: 'The ledger was restored from an old state, or someone fenced the source by hand.',
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
    meaning: 'The ledger says committed, but the source is not fenced.',
    cause: 'Someone removed the fence after the decision, or restored the source.',
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
    cause: 'DDL, VACUUM FULL or CLUSTER ran in the write pause; DDL bypasses every trigger.',
    fix: 'Stop such jobs until the cutover is over, and run it again.',
  },
  'fence.write-passed': {
    meaning: 'A write passed the fence after it was armed.',
    cause: 'The lease ran out, or someone lifted the fence.',
    fix: 'Run the cutover again, with a longer `lease` if the machine is slow.',
  },
  'fence.writers-remain': {
    meaning: 'Transactions with a write lock did not end in time.',
    cause: 'A long or prepared transaction started before the fence.',
    fix: 'End the sessions that the message names (`pg_terminate_backend`, `ROLLBACK PREPARED`), or set `end-sessions`.',
  },

  'finalize.cutover-unfinished': {
    meaning: 'The cutover has not ended, so nothing is finalized.',
    cause: 'Its run was interrupted.',
    fix: 'Run `cutover` again. It continues from where it stopped.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'finalize.definitions-differ': {
    meaning: "The target's definitions differ from the source's.",
    cause: 'An index, constraint or sequence is missing or different.',
    fix: 'Correct each one. To accept the differences, set `structure: report` in the section `verify` of the config file.',
  },
  'finalize.not-switched': {
    meaning: 'No one has confirmed that the application uses the target.',
    cause: 'The switch is manual, and its confirmation is missing.',
    fix: 'Switch the application, then start Migrate with `phase: finalize` and tick `switched-by-hand`.',
  },

  'github.not-found': {
    meaning: 'GitHub has no such object.',
    cause: 'It was deleted, or has expired.',
    fix: 'Check the name in the message, and start a new run.',
  },
  'github.rate-limited': {
    meaning: 'GitHub limits the requests of this token.',
    cause: 'The runs of this repository have used the 1,000 requests that `GITHUB_TOKEN` has in an hour.',
    fix: 'Rerun the job at the time that the message names.',
  },
  'github.refused': {
    meaning: 'GitHub refused a request.',
    cause: 'The job lacks a permission or the token.',
    fix: 'Grant the calling job `actions: read` (and `attestations: read` for rehearsals), and set `token` to `github.token`.',
  },
  'github.unavailable': {
    meaning: 'GitHub keeps failing, even after several minutes of retries.',
    cause: 'GitHub has an outage.',
    fix: 'Look at githubstatus.com, and rerun the job when it is over.',
  },
  'github.unexpected-answer': {
    meaning: 'GitHub answered in a form that this version does not know.',
    cause: 'The API of this GitHub Enterprise Server, or a proxy, differs.',
    fix: 'Update this suite, or report the message.',
  },
  'github.unreachable': {
    meaning: 'GitHub cannot be reached.',
    cause: 'The network or GitHub is down, or a proxy blocks the request.',
    fix: 'Run the step again. On a self-hosted runner, allow the API host.',
  },

  'heartbeat.changed': {
    meaning: 'The heartbeat on the target is ahead of the source.',
    cause: 'Someone changed the row on the target, or another stream writes there.',
    fix: 'Run the UPDATE that the message shows, on the target, and find out who changed the row.',
  },
  'heartbeat.missing': {
    meaning: 'The heartbeat row no longer exists.',
    cause: 'Someone ran `abort` or `cleanup`, or deleted the row.',
    fix: 'Prepare and load again.',
  },

  'hold.handover-pending': {
    meaning: 'Another run has asked for the slot of this migration.',
    cause: 'The slot is being handed over, and only one run can have it.',
    fix: 'Wait for that run, or cancel it.',
  },
  'hold.handover-timeout': {
    meaning: 'The slot was not handed over in time.',
    cause: 'The run that streams hangs.',
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
    cause: 'Only one run can act at a time. The hold of a dead run expires after twice the `lease`.',
    fix: 'Wait for that run, or cancel it.',
  },

  'input.conflict': {
    meaning: 'Two inputs contradict each other.',
    cause: 'The message names both.',
    fix: 'Leave one of them out.',
  },
  'input.insecure-url': {
    meaning: 'A connection may be unencrypted.',
    cause: '`sslmode` in the URL allows a connection without TLS, or without a check of the server.',
    fix: 'Set `sslmode=verify-full` in the URL, or `allow-insecure: true`.',
  },
  'input.invalid': {
    meaning: 'An input has a value that is not allowed.',
    cause: 'The value does not have the form that the input needs.',
    fix: 'Write the value in the form that the message shows.',
  },
  'input.missing': {
    meaning: 'A required input is missing.',
    cause: 'Neither the step nor the config file sets it.',
    fix: 'Set the input.',
  },
  'input.reserved-argument': {
    meaning: 'An extra argument is reserved.',
    cause: 'The action sets it itself, or it would break a proof.',
    fix: 'Remove the argument. An input of the action may do the same.',
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
    meaning: 'This suite failed in an unforeseen way.',
    cause: 'A bug.',
    fix: 'Report the message with its stack. Row values and passwords are masked in it.',
  },

  'ledger.changed-by-hand': {
    meaning: 'The ledger was changed by hand.',
    cause: 'The plan does not match its hash, or a part of the entry is missing.',
    fix: 'Prepare a new migration.',
  },
  'ledger.moved': {
    meaning: 'Another run moved this migration meanwhile, so this run stopped.',
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
    meaning: 'The load ended because the migration was aborted meanwhile.',
    cause: 'Someone ran `abort` while `fetch` was loading.',
    fix: 'Run `prepare` and `fetch` again to continue the migration.',
    next: { action: 'prepare' },
  },
  'load.bucket-refused': {
    meaning: 'The bucket refuses the keys that MOLT uses, or does not exist.',
    cause: "The keys, the region or the endpoint in the step's environment are missing, wrong or expired.",
    fix: 'Set `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_REGION`, or a role that may read, write and list the bucket.',
  },
  'load.cancel-refused': {
    meaning: 'The migration role cannot cancel imports of its own load.',
    cause: 'Up to v24.3, CANCEL JOB requires the role admin or the privilege CONTROLJOB.',
    fix: 'As an administrator, cancel the jobs that the message names. Then grant the migration role SYSTEM CONTROLJOB.',
  },
  'load.cannot-resume': {
    meaning: 'The interrupted load cannot be resumed.',
    cause: 'A direct copy keeps nothing to resume from, or the load ended before every table was exported.',
    fix: 'Set `on-interrupted: restart`.',
    next: { action: 'fetch', inputs: { 'on-interrupted': 'restart' } },
  },
  'load.cannot-stream': {
    meaning: 'Every row was loaded, but no stream can continue from this load.',
    cause: 'The slot, the publication or a table was changed during the load.',
    fix: 'Correct what the message lists, empty the target tables, and load again.',
  },
  'load.disk-full': {
    meaning: 'The disk for intermediate files is full.',
    cause: '`local-path` is too small for the exported files.',
    fix: 'Free space, or set `bucket-path`.',
  },
  'load.duplicate-key': {
    meaning: 'A row with the same key already exists on the target.',
    cause: 'The table was not empty, or another session writes to it.',
    fix: 'Empty the table, stop the writer, and load again.',
  },
  'load.files-unreadable': {
    meaning: 'The target cannot read the files that MOLT wrote.',
    cause: 'The cluster cannot reach the bucket or the file server on the runner, or lacks the right to read.',
    fix: 'Give every node access to the bucket, or set `local-path-crdb-access-addr` to an address that they reach.',
  },
  'load.foreign-import': {
    meaning: 'An import that no load of this migration started keeps expected tables offline.',
    cause:
      'Another person or tool imports into these tables. Only imports that read files of our own loads are cancelled.',
    fix: 'Wait until the job that the message names has ended, or ask its owner to cancel it.',
  },
  'load.generated-column': {
    meaning: 'A generated column cannot be loaded.',
    cause: 'The target computes it, but MOLT writes it.',
    fix: 'Leave the table out, or make the column a plain one on both sides until the switch: [`tbl.generated`](checks.md#tblgenerated).',
  },
  'load.incomplete': {
    meaning: 'The load is not complete, although molt fetch reported no failure.',
    cause:
      'A table or column was skipped, rows are missing, or the completion record is missing. The message lists each problem.',
    fix: 'Correct what the message lists, empty the target tables, and load again.',
  },
  'load.interrupted': {
    meaning: 'An earlier load did not end, and its slot still exists.',
    cause: 'A load was cancelled or failed.',
    fix: 'Set `on-interrupted: resume` to continue it, or `on-interrupted: restart` to load everything again.',
  },
  'load.jobs-running': {
    meaning: 'Import jobs on the target do not end.',
    cause: 'Jobs of an earlier load still keep their tables offline.',
    fix: 'Look at them with `SHOW JOBS`, and cancel them.',
  },
  'load.no-address': {
    meaning: 'This machine has no network address under which the target could read local files.',
    cause: '`local-path-crdb-access-addr` is not set, and the runner has only its loopback address.',
    fix: 'Set `local-path-crdb-access-addr`, or use a bucket.',
  },
  'load.null-refused': {
    meaning: 'The target refuses NULL in a column.',
    cause: 'Early MOLT builds write NULL for an empty string.',
    fix: 'Look for empty strings in that column on the source, or use a newer build.',
  },
  'load.partly-imported': {
    meaning: 'Tables hold some of the rows that MOLT would import again.',
    cause: 'MOLT halves a batch of files that fails, and the good half stays imported.',
    fix: 'Empty the tables that the message names, then resume again.',
  },
  'load.recreate-loses-rights': {
    meaning: 'Dropping and creating the tables would take rights away from other roles.',
    cause: '`table-handling` is `drop-on-target-and-recreate`, and MOLT does not give rights back.',
    fix: 'Set `table-handling: truncate-if-exists`, which keeps the tables.',
  },
  'load.still-running': {
    meaning: 'A run still loads a migration that was aborted.',
    cause: 'The run did not see that it was aborted, or did not end.',
    fix: 'Cancel the run that the message names, then run `abort` again.',
  },
  'load.tables-not-exact': {
    meaning: 'The load would not move exactly the expected tables. No row was moved.',
    cause: "MOLT's filter matches other tables too, or not all of them.",
    fix: 'Rename or exclude the tables that the message lists.',
  },
  'load.target-not-empty': {
    meaning: 'Target tables hold rows before the load.',
    cause: 'An earlier load left them.',
    fix: 'Empty the tables, or list them in `allow-truncate`: [start over](runbook.md#abort-before-the-commit).',
  },

  'mask.canaries-missing': {
    meaning: 'The environment variable with the canaries is empty or not set.',
    cause: 'The secret does not exist, or the job does not pass it on.',
    fix: 'Set the variable that the rules file names.',
  },
  'mask.copy-failed': {
    meaning: 'Copying a table into the rehearsal source failed.',
    cause: 'A rule produces a value that the column refuses, or a connection broke.',
    fix: 'Correct the rule of the table that the message names, and run the step again.',
  },
  'mask.failed': {
    meaning: 'Masking failed.',
    cause: 'A database refused a statement. Values are left out of the message.',
    fix: 'Correct the cause by the SQLSTATE in the message, and run the step again.',
  },
  'mask.file-exists': {
    meaning: 'The rules file already exists.',
    cause: 'A proposal never overwrites a file.',
    fix: 'Set `rules` to a new file.',
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
    fix: 'Run the ALTER ROLE statement that the message shows, as an administrator.',
  },
  'mask.no-tables': {
    meaning: 'The schema has no tables to mask.',
    cause: '`schema` is misspelled, or the role does not see the tables.',
    fix: 'Correct `schema`, or grant USAGE and SELECT.',
  },
  'mask.not-proved': {
    meaning: 'The masked copy is not proved to be free of personal data, so it was discarded.',
    cause: 'A value survived, a text looks personal, or the copy breaks a constraint. The message lists each column.',
    fix: 'Give these columns another rule. Accept one with a reason under `proof` in the rules file: [masking](masking.md).',
  },
  'mask.reaches-out': {
    meaning: 'An object of the schema reaches outside the database.',
    cause: 'An extension or a function calls other systems, and a rehearsal must not.',
    fix: 'Exclude its table, or replace the object on the clone.',
  },
  'mask.rule-failed': {
    meaning: 'The rule of a column fails.',
    cause: 'Its SQL is invalid, or its result does not fit the column.',
    fix: 'Correct the rule.',
  },
  'mask.rules-invalid': {
    meaning: 'The rules file has mistakes.',
    cause: 'It is not YAML, or contains an unknown rule or option.',
    fix: 'Correct the lines that the message lists: [masking](masking.md).',
  },
  'mask.rules-misfit': {
    meaning: 'The rules do not fit the source. Nothing was copied.',
    cause: 'A rule names a column that does not exist, or does not suit its type, key or rows.',
    fix: 'Correct the rules file.',
  },
  'mask.rules-unreadable': {
    meaning: 'The rules file cannot be read.',
    cause: 'The path is wrong, or the repository is not checked out.',
    fix: 'Correct `rules`, and run `actions/checkout` before this step.',
  },
  'mask.same-database': {
    meaning: '`from` and `to` are the same database.',
    cause: 'Masking would overwrite what it reads.',
    fix: 'Set `to` to an empty database.',
  },
  'mask.schema-failed': {
    meaning: 'A part of the schema cannot be created on the rehearsal source.',
    cause: 'It needs an object of another schema, or masked rows break a constraint.',
    fix: 'Correct the rules of its columns, exclude its table, or remove the need on the clone.',
  },
  'mask.target-fed': {
    meaning: 'A subscription or another feed writes to the rehearsal source.',
    cause: 'Its changes are not masked and would leak personal data into the rehearsal.',
    fix: 'Drop the feed first. Rehearse streaming with generated load.',
  },
  'mask.target-not-allowed': {
    meaning: '`allow-target` does not name the database of `to`.',
    cause: 'The name protects a production database from being overwritten.',
    fix: 'Set `allow-target` to the exact name of the rehearsal database.',
  },
  'mask.target-not-empty': {
    meaning: 'The rehearsal source holds objects that `mask` did not create.',
    cause: 'The database is used for something else.',
    fix: 'Use an empty database.',
  },
  'mask.target-replica': {
    meaning: 'The rehearsal source is a replica.',
    cause: 'Its rows come from its primary, unmasked.',
    fix: 'Use a separate primary.',
  },
  'mask.unlisted-columns': {
    meaning: 'Columns have no rule and no safe class. Nothing was copied.',
    cause: 'They are new, or the rules file is incomplete.',
    fix: 'Paste the lines that the message shows into the rules file, and decide each one.',
  },

  'molt.target-not-cockroach': {
    meaning: 'The real MOLT accepts only CockroachDB as the target.',
    cause: 'The target is PostgreSQL.',
    fix: 'Set a CockroachDB target.',
  },
  'molt.type-unsupported': {
    meaning: 'This build of molt cannot move the type of a column.',
    cause: 'It does not know the type.',
    fix: 'Leave the table out, or use a newer build.',
  },
  'molt.unknown-flag': {
    meaning: 'This build of molt does not know a flag.',
    cause: 'It is older than the setting that needs the flag.',
    fix: 'Leave the setting out, or use the version that `setup` pins by default.',
  },

  'observe.degraded': {
    meaning: 'The application is degraded on the target.',
    cause:
      'Latency, failures, retries or another threshold got worse than the baseline allows. The message lists each.',
    fix: 'Correct the causes, or roll back while the window is open. Then run `observe` again.',
  },
  'observe.inconclusive': {
    meaning: 'It is not proved that the application is healthy on the target.',
    cause: 'Too few calls were seen, or data of one side could not be read. The message lists each gap.',
    fix: 'Close these gaps, and run `observe` again.',
  },

  'output.secret': {
    meaning: 'An output would hold a masked value.',
    cause: 'A secret is part of a name, such as the database or the migration. GitHub drops such an output silently.',
    fix: 'Rename the object, or change the secret.',
  },

  'password.command-failed': {
    meaning: '`password-command` printed no password.',
    cause: 'The program is missing, failed, took longer than 30 s, or printed nothing or several lines.',
    fix: 'Run the program on the runner with `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` set, as the job has them. It must print one line.',
  },
  'password.not-for-tools': {
    meaning: '`password-command` prints a password for one connection, and this step starts MOLT.',
    cause: 'The programs molt and replicator connect again until they end. By then a short-lived password has expired.',
    fix: 'Use a login with a password in the URL for this step, or set `password-lasts: job` where the password outlives the job: [managed PostgreSQL](managed-postgresql.md#passwords-from-iam).',
  },

  'pause.estimate-too-long': {
    meaning: 'The write pause would take longer than `max-pause`. Nothing was paused.',
    cause: 'The measured parts add up to more.',
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
    fix: 'Correct each one, or waive it by name, and run `prepare` again.',
  },

  'prepare.no-tables': {
    meaning: 'No table is selected.',
    cause: 'The schema is empty, or `tables` and `exclude-tables` leave nothing.',
    fix: 'Correct `schema`, `tables` or `exclude-tables`.',
  },
  'prepare.other-plan': {
    meaning: 'This migration was prepared with another plan.',
    cause: 'Tables, schemas or the slot differ from the first time.',
    fix: 'Run `abort` first to start over, or set another `migration` for another source.',
    next: { action: 'abort' },
  },
  'prepare.plan-fixed': {
    meaning: 'The plan can no longer change.',
    cause: 'Rows are already loaded under it.',
    fix: 'Restore the settings that the message lists, or abort and prepare again.',
    next: { action: 'abort' },
  },

  'publication.changed': {
    meaning: 'The publication was altered on the source.',
    cause: 'A table was removed, or removed and added again. Changes in between may never have been sent.',
    fix: 'Prepare and load again.',
  },
  'publication.dropped': {
    meaning: 'The publication was dropped.',
    cause: 'Someone dropped it. A new one of the same name does not heal a stream on a live slot.',
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
    cause: 'A table is missing or too many are in it, or it filters rows, columns or operations.',
    fix: 'Correct the publication. Rows written before may be lost to the stream, so load again.',
  },

  'rehearse.invalid-option': {
    meaning: '`npm run rehearse` does not understand its options.',
    cause: 'An option is misspelled, has an invalid value, or does not go with another one.',
    fix: 'Run `npm run rehearse -- --help`.',
  },
  'rehearse.source-not-allowed': {
    meaning: '`--allow-source` does not name the database of `--source`.',
    cause: 'A rehearsal pauses its writes for some seconds.',
    fix: 'Add `--allow-source` with the exact name of the database, if you mean it.',
  },

  'rollback.inconclusive': {
    meaning: 'It is unknown whether the target was written to since the commit.',
    cause: 'Tables could not be compared.',
    fix: 'Correct what the message lists. To accept the loss of writes, name each table in `accept-data-loss`; stop the application first.',
  },
  'rollback.not-fenced': {
    meaning: 'The source is not fenced permanently, so nothing can be rolled back safely.',
    cause: 'No cutover was committed, or the fence was removed and the source was written to beside the target.',
    fix: 'Find out which database the application uses.',
  },
  'rollback.target-written': {
    meaning: 'The target was written to since the commit.',
    cause: 'The application uses it. Nothing copies these writes to the source.',
    fix: 'To accept their loss, stop the application and name each table in `accept-data-loss`.',
  },
  'rollback.writers': {
    meaning: 'Roles could still write to the target after the rollback.',
    cause:
      'A role owns a table, or got its rights from someone whose grants the migration user cannot revoke. Its writes would be lost.',
    fix: 'Run the statements of the message on the target as an administrator, then run `rollback` again.',
    next: { action: 'rollback' },
  },

  'runner.action-missing': {
    meaning: 'The local runner found no action at a path.',
    cause: 'The path is wrong, or the action is not checked out.',
    fix: 'Correct `uses`.',
  },
  'runner.invalid-action': {
    meaning: 'An action file is invalid.',
    cause: 'GitHub would refuse it as well.',
    fix: 'Correct what the message lists.',
  },
  'runner.outside-repository': {
    meaning: 'A step uses an action outside the repository.',
    cause: 'The path leaves the checkout.',
    fix: 'Move the action into the repository.',
  },
  'runner.unsupported': {
    meaning: 'The local runner does not support a feature.',
    cause: 'It runs composite and JavaScript actions with bash and sh only.',
    fix: 'Run this workflow on GitHub.',
  },

  'schema.changed': {
    meaning: 'The schema has changed since `prepare`.',
    cause: 'DDL ran on the source or on the target. DDL is frozen from the load to the cutover.',
    fix: 'Undo the change, or abort, and prepare and load again.',
    next: { action: 'abort' },
  },

  'sequences.not-set': {
    meaning: 'Sequences could not be set on the target.',
    cause: 'A right is missing, or a sequence does not exist. The next insert could collide with an existing row.',
    fix: 'Correct what the message lists, and run the step again.',
  },

  'setup.archive-damaged': {
    meaning: 'The downloaded archive is damaged.',
    cause: 'The download was cut short, or a proxy changed it.',
    fix: 'Run the step again.',
  },
  'setup.digest-mismatch': {
    meaning: 'The sha256 of the archive is not the pinned one.',
    cause: 'The file was replaced, or a proxy changed it.',
    fix: 'Do not use the archive before you know why.',
  },
  'setup.digest-unknown': {
    meaning: 'No sha256 is known for this archive.',
    cause: 'This suite does not pin that version.',
    fix: 'Check the archive, and set `checksum` to the value that the message shows.',
  },
  'setup.download-failed': {
    meaning: 'MOLT could not be downloaded.',
    cause: 'The version does not exist, or the runner cannot reach the host.',
    fix: 'Check the version and the network, or set `bin-dir`.',
  },
  'setup.platform': {
    meaning: 'MOLT is not built for this platform.',
    cause: 'The runner has another operating system or processor.',
    fix: 'Use a Linux, macOS or Windows runner on amd64 or arm64.',
  },
  'setup.programs-missing': {
    meaning: 'A program in `bin-dir` is missing or not executable.',
    cause: 'The folder does not hold both molt and replicator for this platform.',
    fix: 'Correct `bin-dir`, or make the files executable.',
  },
  'setup.version-denied': {
    meaning: 'This version of MOLT is on the deny list.',
    cause: 'It has a fault that can lose rows.',
    fix: 'Use another version, or name it in `allow-denied-version`.',
  },

  'slot.earlier-replicator': {
    meaning: 'A replicator of an earlier run is still alive and takes the slot again.',
    cause: 'Its job or its machine still runs.',
    fix: 'End that job or machine, and run the step again.',
  },
  'slot.foreign': {
    meaning: 'A slot of that name already exists on the source and belongs to something else.',
    cause:
      'Another database of the server, a standby or another tool uses the name of `slot`, or that name followed by `_verify`.',
    fix: 'Run `abort`, then `prepare` with another `slot`.',
  },
  'slot.in-use': {
    meaning: 'Another process reads the slot.',
    cause: 'A load, a replicator or a program outside this suite is connected.',
    fix: 'End that process. Changes that it took are lost to the stream, so run `status` and verify.',
  },
  'slot.missing': {
    meaning: 'The slot does not exist.',
    cause: 'Someone dropped it, or the source failed over. Changes since then are lost.',
    fix: 'Abort, then prepare and load again. After an interrupted load, set `on-interrupted: restart`.',
    next: { action: 'abort' },
  },
  'slot.moved': {
    meaning: "The slot's position is not where this migration left it.",
    cause: 'Someone recreated, advanced or read it. Changes are lost.',
    fix: 'Load again. After an interrupted load, set `on-interrupted: restart`.',
    next: { action: 'fetch', inputs: { 'on-interrupted': 'restart' } },
  },
  'slot.none-free': {
    meaning: 'The source has no free replication slot.',
    cause: '`max_replication_slots` is reached.',
    fix: 'Raise `max_replication_slots` on the source, or drop slots that nothing needs.',
  },
  'slot.recreated': {
    meaning: 'The slot was recreated while the stream ran.',
    cause: 'Someone dropped and created it. Changes in between are lost.',
    fix: 'Abort, then prepare and load again.',
    next: { action: 'abort' },
  },
  'slot.wal-budget': {
    meaning: 'The slot keeps more WAL on the source than `wal-budget`.',
    cause: 'Nothing reads the slot, or the stream is slower than the writes.',
    fix: 'Start `phase: cutover` or run `replicate`, raise the budget, or abort before the disk is full.',
    next: { action: 'replicate' },
  },
  'slot.wal-lost': {
    meaning: 'The slot has lost WAL that the stream needs.',
    cause: 'The source removed it: `max_slot_wal_keep_size` is too small.',
    fix: 'Raise `max_slot_wal_keep_size`, abort, and prepare and load again.',
    next: { action: 'abort' },
  },

  'source.other-database': {
    meaning: 'The source is not the database that `prepare` saw.',
    cause: 'The URL was changed, the server failed over, or the database was restored.',
    fix: 'Correct the URL, or prepare a new migration.',
  },
  'source.row-level-security': {
    meaning: 'Row-level security hides rows from the migration user.',
    cause: 'Hidden rows would be neither moved nor compared.',
    fix: 'Run the ALTER ROLE statement that the message shows, as a superuser. Load again if the right was missing during the load.',
  },
  'source.taken': {
    meaning: 'The source belongs to another migration.',
    cause: "A source database takes part in one migration at a time, because MOLT's publication has a fixed name.",
    fix: 'Run `cleanup` for that migration first.',
  },
  'source.truncated': {
    meaning: 'A table was emptied by TRUNCATE on the source.',
    cause: 'No stream moves a TRUNCATE, not even one between two streams.',
    fix: 'Load again. Empty tables with DELETE until the cutover is over.',
  },
  'source.version-unsupported': {
    meaning: 'MOLT does not support this PostgreSQL version.',
    cause: 'It verifies PostgreSQL 12 to 16.',
    fix: 'Upgrade the source, or migrate from a logical replica of it.',
  },

  'status.unreadable': {
    meaning: 'A given side could not be read.',
    cause: 'The message names each side with the code and text of its own error.',
    fix: 'Correct what these errors say, then run `status` again.',
  },

  'stream.login-alive': {
    meaning: 'The login of an earlier leg of the stream could not be revoked.',
    cause: 'A role `molt_leg_…` on the target can still log in, or a session of it does not end.',
    fix: 'Run the ALTER ROLE statement that the message shows on the target, end the sessions of that role, and run the step again.',
  },
  'stream.not-continuous': {
    meaning: 'The stream would not continue where the last one ended.',
    cause: 'The slot, its position or the publication has changed since then. Changes would be lost silently.',
    fix: 'Load again.',
  },
  'stream.stuck.check': {
    meaning: 'The stream is stuck: the target refuses a row by a constraint.',
    cause: 'The target has a CHECK or another constraint that the source does not have.',
    fix: 'Drop that constraint on the target until after the drain.',
  },
  'stream.stuck.column': {
    meaning: 'The stream is stuck: the columns of a table differ between both sides.',
    cause: 'A column was added, dropped or renamed on one side.',
    fix: 'Make the columns equal. The stream continues within a minute.',
  },
  'stream.stuck.connection': {
    meaning: 'The stream is stuck: the replicator cannot reach a database.',
    cause: 'The network, the login or the server fails.',
    fix: 'Restore the connection that the message names.',
  },
  'stream.stuck.connection-limit': {
    meaning: 'The stream is stuck: a server has no free connection for the replicator.',
    cause:
      'The connection limit of the role or the database, or `max_connections` is reached, perhaps since `prepare`.',
    fix: 'Close idle connections, or raise that limit: the CONNECTION LIMIT of the role or the database, or `max_connections`. The stream then continues automatically.',
  },
  'stream.stuck.contention': {
    meaning: 'The stream is stuck: the target keeps retrying a transaction.',
    cause: 'Other sessions write to the same rows.',
    fix: 'Stop other writers on the target.',
  },
  'stream.stuck.foreign-key': {
    meaning: 'The stream is stuck: a foreign key of the target refuses a change.',
    cause: 'Changes do not arrive in the order of foreign keys.',
    fix: 'Drop the foreign key on the target until after the drain.',
  },
  'stream.stuck.identity': {
    meaning: 'The stream is stuck: the keys of a table do not fit.',
    cause: 'REPLICA IDENTITY is not DEFAULT, or the primary keys differ.',
    fix: 'Set REPLICA IDENTITY DEFAULT, and give both sides the same primary key.',
  },
  'stream.stuck.identity-always': {
    meaning: 'The stream is stuck: a target column is GENERATED ALWAYS AS IDENTITY.',
    cause: 'Such a column refuses the values of the source.',
    fix: 'Run `prepare` or `verify` with `level: tables`, which print the statement for each such column, and run it on the target.',
  },
  'stream.stuck.lock': {
    meaning: 'The stream is stuck: its session on the target waits for a lock.',
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
    fix: 'Rename one of them.',
  },
  'stream.stuck.no-key': {
    meaning: 'The stream is stuck: a target table has no primary key.',
    cause: 'Without a key the replicator cannot find rows.',
    fix: "Give the target table the source's primary key.",
  },
  'stream.stuck.not-null': {
    meaning: 'The stream is stuck: a target column refuses NULL.',
    cause: 'The source allows NULL there.',
    fix: 'Drop NOT NULL on the target.',
  },
  'stream.stuck.other': {
    meaning: 'The stream is stuck for an unknown reason.',
    cause: 'The replicator retries the same change, stays behind, or prints nothing.',
    fix: 'Read the last line of the replicator in the message. Its whole log is in the evidence folder.',
  },
  'stream.stuck.permission': {
    meaning: "The stream is stuck: the replicator's role lacks a right.",
    cause: 'The right was never granted, or was revoked.',
    fix: 'Grant the right that the message names.',
  },
  'stream.stuck.publication': {
    meaning: 'The stream is stuck: its publication is gone.',
    cause: 'Someone dropped it. A new one of the same name does not heal the stream.',
    fix: 'Abort, then prepare and load again.',
  },
  'stream.stuck.read-only': {
    meaning: 'The stream is stuck: the target is read-only.',
    cause: 'A setting of the database or the role forbids writes.',
    fix: 'Make the target writable for the migration user.',
  },
  'stream.stuck.schema-name': {
    meaning: "The stream is stuck: the target's database or schema does not exist.",
    cause: 'It was dropped or renamed.',
    fix: 'Restore it.',
  },
  'stream.stuck.slot-busy': {
    meaning: 'The stream is stuck: another process reads the slot.',
    cause: 'A replicator of another run, or a foreign program, is connected.',
    fix: 'End that process.',
  },
  'stream.stuck.slot-gone': {
    meaning: 'The stream is stuck: the slot is gone.',
    cause: 'Someone dropped it, or the source failed over.',
    fix: 'Abort, then prepare and load again.',
  },
  'stream.stuck.slot-invalid': {
    meaning: 'The stream is stuck: the source has removed WAL that the slot needs.',
    cause: '`max_slot_wal_keep_size` is too small.',
    fix: 'Raise it, abort, and prepare and load again.',
  },
  'stream.stuck.timeout': {
    meaning: 'The stream is stuck: a timeout of a server ends its session or its statements.',
    cause: 'A timeout is set for the role, the database or the server, perhaps since `prepare`.',
    fix: 'Set that timeout to 0 for the migration user, as in `ALTER ROLE CURRENT_USER SET statement_timeout = 0;`. The stream continues with its next connection.',
  },
  'stream.stuck.toast': {
    meaning: 'The stream is stuck: an UPDATE left a large (TOASTed) value unchanged.',
    cause: 'This replicator cannot apply such an UPDATE.',
    fix: 'Use a newer replicator, or let the application write that column in every UPDATE.',
  },
  'stream.stuck.trigger': {
    meaning: 'The stream is stuck: code on the target refuses a change.',
    cause: 'A trigger or function of an expected table raised an exception. A deferred trigger does so at the commit.',
    fix: 'Disable the triggers of the table on the target until after the drain. `SHOW TRIGGERS FROM` a table lists them.',
  },
  'stream.stuck.truncate': {
    meaning: 'The stream is stuck: a TRUNCATE was run on the source.',
    cause: 'The replicator cannot apply a TRUNCATE.',
    fix: 'Load again. Empty tables with DELETE until the cutover is over.',
  },
  'stream.stuck.type': {
    meaning: 'The stream is stuck: a value does not fit its column on the target.',
    cause: 'The types differ, or the replicator cannot apply the type.',
    fix: 'Give both sides the same type, leave the table out, or use another replicator.',
  },
  'stream.stuck.unique': {
    meaning: 'The stream is stuck: a unique index of the target refuses a change.',
    cause: 'A unique value moved from one row to another.',
    fix: 'Drop that index on the target until after the drain.',
  },

  'target.table-offline': {
    meaning: 'An expected table of the target is offline.',
    cause: 'An import holds it. The catalogs hide such a table, and every statement on it fails.',
    fix: 'Wait until the job that the message names has ended, or cancel it: `CANCEL JOB id`. Then run the step again.',
  },

  'tool.failed': {
    meaning: 'A MOLT program failed.',
    cause: 'Its last line is in the message.',
    fix: 'Read its log in the evidence folder.',
  },
  'tool.killed': {
    meaning: 'A MOLT program was killed by a signal.',
    cause: 'The machine ran out of memory, or someone ended the process.',
    fix: 'Look at what else runs on the machine, and run the step again.',
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
    meaning: 'A MOLT program printed nothing for `stall-after` and was ended.',
    cause: 'It waits for a lock, or the runner is out of memory or disk. A large IMPORT INTO prints nothing either.',
    fix: 'Look for locks on both sides. Raise `stall-after` for very large tables.',
  },
  'tool.unusable': {
    meaning: 'A MOLT program does not respond.',
    cause: 'The file is damaged, or not built for this platform.',
    fix: 'Run `setup`, or check the file.',
  },

  'tools.not-planned': {
    meaning: 'The program is not the one in the plan.',
    cause: 'This runner has a different MOLT from the one that was rehearsed and approved.',
    fix: 'Set the same `version` and `checksum` for all jobs. Before the load, run `prepare` with `waive: tool.version=molt` to accept it.',
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
      'The target no longer keeps that state (`gc.ttlseconds`), a table or a right is gone, or the ledger has no time of the commit.',
    fix: 'Correct what the message lists and run `finalize` again. Set `waive: compare` in `cleanup` to accept this.',
  },
  'verify.differences': {
    meaning: 'Source and target differ.',
    cause:
      'While changes stream, a difference can be lag, unless `while: streaming` ruled that out. After the drain it is loss. One known cause: molt creates its slot before its snapshot. A transaction whose commit waits for a synchronous standby in between is in neither.',
    fix: 'Set `while: streaming`, or verify after the drain. Do not cut over while rows differ. Load again when rows are lost.',
  },
  'verify.inconclusive': {
    meaning: 'It is not proved that source and target are equal, but no loss is known.',
    cause: 'Rows kept changing, a right is missing, or a table could not be compared. The message lists each problem.',
    fix: 'Correct what the message lists, and verify again with less load, or after the drain.',
  },
  'verify.not-provable': {
    meaning: '`final-verify: changed` has no complete rolling proof.',
    cause:
      'The change log cannot be read, the source changes faster than it is read, or others may write to the target.',
    fix: 'Set `final-verify: auto`, which compares every row in the write pause unless the proof is complete.',
  },
  'verify.rows-lost': {
    meaning: 'Rows differ after the drain. Nothing was committed.',
    cause: 'Nothing is in flight, so this is loss.',
    fix: 'Do not cut over. Find the cause, abort, and prepare and load again. If only the hashes differ, MOLT misreads values: use a newer MOLT.',
    next: { action: 'abort' },
  },

  'waiver.not-allowed': {
    meaning: 'A check cannot be waived.',
    cause: 'A later step would fail anyway.',
    fix: 'Correct what the check found.',
  },
  'waiver.unknown-check': {
    meaning: '`waive` names an unknown check.',
    cause: 'The name is misspelled.',
    fix: 'Use a name from [the list of checks](checks.md).',
  },
  'waiver.unused': {
    meaning: 'A waiver matches nothing.',
    cause: 'The object is misspelled, or the problem is gone.',
    fix: 'Remove the waiver, or correct its object.',
  },

  'write-access.granted-early': {
    meaning: 'Roles can write to the target, which must stay read-only until the commit.',
    cause: 'Someone granted rights since `prepare`.',
    fix: 'Revoke the rights that the message lists, and verify again.',
  },
  'write-access.missing': {
    meaning: 'The migration is committed, and write access to the target could not be given back.',
    cause:
      'The target refused or ended a GRANT, or could not be reached. For example, the migration user has lost the right to grant, or a role was dropped.',
    fix: 'Run the statements of the message on the target as an administrator, then run `cutover` again. To return to the source, run `rollback`.',
    next: { action: 'cutover', inputs: { decision: 'commit' } },
  },
  'write-access.not-closed': {
    meaning: 'Write access to the target was never revoked.',
    cause: '`prepare` was interrupted before its end.',
    fix: 'Run `prepare` again.',
    next: { action: 'prepare' },
  },
  'write-access.not-grantable': {
    meaning: 'Write access to the target could not be given back after the commit.',
    cause:
      'The migration user lacks the grant option, ownership or admin for a right that the application has. ALL needs ALL WITH GRANT OPTION.',
    fix: 'Have an administrator run the statements of the message on the target, then run the step again.',
  },
  'write-access.not-restored': {
    meaning: 'Write access to the target could not be given back when the migration ended.',
    cause: 'The target refused a GRANT, or could not be reached. The ledger keeps the list of missing rights.',
    fix: 'Run the statements of the message on the target as an administrator, then run the step again.',
  },
  'write-access.not-revocable': {
    meaning: 'Roles can write to the target until the commit, and no REVOKE changes that.',
    cause: 'Since `prepare`, a role became the owner of a table, or a member of its owner or of the migration user.',
    fix: 'Run the statements of the message on the target as an administrator, and verify again.',
  },
  'write-access.not-revoked': {
    meaning: 'Write access on the target could not be revoked.',
    cause: 'Another role granted it.',
    fix: 'Revoke the rights that the message lists, or set `write-access: waive`.',
  },
  'write-access.role-gone': {
    meaning: 'A role that had write access to the target no longer exists.',
    cause:
      'Someone dropped the role after `prepare` had revoked its write access. It would be missing after the commit.',
    fix: 'Create the role again. Before the load, you can also run `prepare` again, which forgets it.',
  },
} as const satisfies Record<string, Explanation>

export type ErrorCode = keyof typeof CODES
