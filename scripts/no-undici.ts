/**
 * Replaces undici in the bundle. @actions/http-client uses it only to give `fetch` a proxy, which nothing here needs:
 * downloads use its own client, which supports proxies. It would be a third of dist/.
 */
export class ProxyAgent {
  constructor() {
    throw new Error('fetch through a proxy is not part of this bundle')
  }
}
