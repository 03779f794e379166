/** Part of the version of the stand-in for MOLT, which loads this constant and nothing of the actions. */
export const STAND_IN = 'embedded stand-in'

export function isStandIn(version: string): boolean {
  return version.includes(STAND_IN)
}
