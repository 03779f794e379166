/**
 * Part of the version that the stand-in for MOLT reports. In its own file, so that the stand-in loads no other code.
 */
export const STAND_IN = 'embedded stand-in'

export function isStandIn(version: string): boolean {
  return version.includes(STAND_IN)
}
