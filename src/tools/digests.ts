/**
 * Known sha256 digests of MOLT's archives, by file name such as `molt-1.4.1.linux-amd64.tgz`. Empty on purpose: the
 * vendor publishes none that could be checked here, and a digest that nobody has checked protects from nothing.
 * Add one only from an archive that you have downloaded and examined yourself.
 */
export const KNOWN_DIGESTS: Readonly<Record<string, string>> = {}
