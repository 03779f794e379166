/**
 * Rows whose expectation was seen to hold, as `topic: name`. The code of any other row is a guess: `npm run
 * test:faults` reports the actual one, and fails only when the suite says go although something is wrong.
 */
export const SEEN: ReadonlySet<string> = new Set([
  'No fault: nothing goes wrong',
  'The load: the filter matches no table',
  "The target's rows after the load: a deleted row",
  'The source while changes are streamed: TRUNCATE of a table',
  'Slot, publication and heartbeat: the slot advanced past changes',
  'Writes past the fence: the application writes',
  'Writes past the fence: a trigger is off, and something is written',
  'The target in the write pause: a row deleted after the verify',
  'The target in the write pause: a role gets the right to write',
])
