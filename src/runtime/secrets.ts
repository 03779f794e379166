import { setSecret } from '@actions/core'

/** Passwords from rehearsals and from the documentation. Masking them would remove ordinary words from logs. */
const KNOWN_DEFAULTS = new Set(['postgres', 'password', 'root', 'admin', 'cockroach', 'test'])
const MIN_LENGTH = 4

const secrets = new Set<string>()

/** Makes the runner and {@link redact} hide `value` from now on. */
export function addSecret(value: string): void {
  for (const line of [value, ...value.split(/\r?\n/)]) {
    if (line.length < MIN_LENGTH || KNOWN_DEFAULTS.has(line) || secrets.has(line)) continue
    secrets.add(line)
    setSecret(line)
  }
}

/** Registers a connection URL and its passwords as secrets. */
export function addSecretUrl(url: string): void {
  addSecret(url)
  for (const [, value] of url.matchAll(/[?&](?:password|sslpassword)=([^&#]*)/gi)) addPassword(value as string)
  const raw = /^[a-z]+:\/\/[^:@/]*:([^@]*)@/i.exec(url)?.[1]
  if (raw) addPassword(raw)
}

/** Registers a password as it is written in the URL, and in every form that a program may print. */
function addPassword(raw: string): void {
  addSecret(raw)
  const plain = decode(raw)
  addSecret(plain)
  addSecret(JSON.stringify(plain).slice(1, -1))
  const encoded = encodeURIComponent(plain)
  const strict = encoded.replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
  // Go does not encode some of RFC 3986's delimiters in a password.
  for (const form of [encoded, strict, strict.replace(/%(24|26|2B|2C|3B|3D)/g, decodeURIComponent)]) addSecret(form)
}

/** Replaces every registered secret, and the password in any URL, with `***`. */
export function redact(text: string): string {
  let out = text.replace(/(:\/\/[^\s:@/]*):[^\s@/]+@/g, '$1:***@')
  for (const secret of [...secrets].sort((a, b) => b.length - a.length)) out = out.replaceAll(secret, '***')
  return out
}

/** Whether the text is exactly a registered secret. */
export function isSecret(text: string): boolean {
  return secrets.has(text)
}

export function holdsSecret(text: string): boolean {
  return [...secrets].some((secret) => text.includes(secret))
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
