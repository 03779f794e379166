/**
 * Replaces undici in the bundle, where it would take a third of dist/. @actions/http-client uses it only to give
 * `fetch` a proxy. Downloads do not need that: its own client supports proxies.
 */
export class ProxyAgent {
  constructor() {
    throw new Error('this bundle does not support fetch through a proxy')
  }
}
