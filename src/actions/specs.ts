import type { ActionSpec } from '../runtime/spec.ts'
import { spec as abort } from './abort/spec.ts'
import { spec as brief } from './brief/spec.ts'
import { spec as cleanup } from './cleanup/spec.ts'
import { spec as convert } from './convert/spec.ts'
import { spec as cutover } from './cutover/spec.ts'
import { spec as fence } from './fence/spec.ts'
import { spec as fetch } from './fetch/spec.ts'
import { spec as finalize } from './finalize/spec.ts'
import { spec as gate } from './gate/spec.ts'
import { spec as mask } from './mask/spec.ts'
import { spec as observe } from './observe/spec.ts'
import { spec as prepare } from './prepare/spec.ts'
import { spec as replicate } from './replicate/spec.ts'
import { spec as report } from './report/spec.ts'
import { spec as rollback } from './rollback/spec.ts'
import { spec as setup } from './setup/spec.ts'
import { spec as status } from './status/spec.ts'
import { spec as verify } from './verify/spec.ts'

/** Every action of the suite, in the order of use. */
export const specs: readonly ActionSpec[] = [
  setup,
  convert,
  mask,
  prepare,
  fetch,
  replicate,
  verify,
  fence,
  gate,
  brief,
  cutover,
  finalize,
  observe,
  cleanup,
  abort,
  rollback,
  status,
  report,
]
