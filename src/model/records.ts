/** A record keyed by names that people or tools chose: a table can be called `constructor`, a column `__proto__`. */
export function byName<T>(): Record<string, T> {
  return Object.create(null)
}

/** The entry of such a name, in a record that may have a prototype. */
export function own<T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined {
  return record && Object.hasOwn(record, name) ? record[name] : undefined
}
