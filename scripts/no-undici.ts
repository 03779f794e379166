/**
 * Takes the place of undici in the bundle. @actions/http-client needs it only to give `fetch` a proxy, which nothing
 * here does; downloads go through its own client, proxy included. It would be a third of dist/.
 */
export class ProxyAgent {
  constructor() {
    throw new Error('fetch through a proxy is not part of this bundle')
  }
}
