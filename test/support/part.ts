/**
 * This worker's share of a long list, as set by `MOLT_ACTIONS_PART=<number>/<of>`. The whole list if that is not set.
 */
export function ofPart<T>(all: readonly T[]): T[] {
  const [number = 1, parts = 1] = (process.env.MOLT_ACTIONS_PART ?? '1/1').split('/').map(Number)
  return all.filter((_, i) => i % parts === number - 1)
}
