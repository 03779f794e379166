/**
 * An empty record without a prototype, for keys that users chose: a table can be called `constructor`, and a column
 * `__proto__`.
 */
export function byName<T>(): Record<string, T> {
  return Object.create(null)
}

/** The record's own value for such a key, even if the record has a prototype. */
export function own<T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return record && Object.hasOwn(record, name) ? record[name] : undefined
}
