/** This worker's share of a long list, by `MOLT_ACTIONS_PART=<number>/<of>`; everything without it. */
export function ofPart<T>(all: readonly T[]): T[] {
  const [number = 1, parts = 1] = (process.env.MOLT_ACTIONS_PART ?? '1/1').split('/').map(Number)
  return all.filter((_, i) => i % parts === number - 1)
}
