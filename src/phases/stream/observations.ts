import { warning } from '@actions/core'
import { VerdictError } from '../../runtime/errors.ts'
import { isSchemaChange, type Observation, observationCode } from '../../source/changes.ts'

const MOST = 50

/** Collects what a stream's watches observe, and reports each observation once. */
export class Observations {
  readonly #list: Observation[] = []

  get list(): readonly Observation[] {
    return this.#list
  }

  get schemaChanges(): string[] {
    return this.#list.filter(({ kind }) => isSchemaChange(kind)).map(({ what }) => what)
  }

  /** @throws VerdictError for observations that invalidate the stream */
  tell(found: readonly Observation[]): void {
    for (const observation of found) {
      const { kind, severity, what } = observation
      if (this.#list.some((known) => known.what === what)) continue
      if (this.#list.length < MOST) this.#list.push(observation)
      if (severity === 'fatal') throw new VerdictError(observationCode(kind), what)
      warning(what)
    }
  }
}
