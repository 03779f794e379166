import { defineAction, optional } from '../../runtime/spec.ts'
import { connectionUrl, text } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'report',
  title: 'Report',
  description:
    'Writes the dossier of a migration from the ledger, at any time. The dossier is one HTML file with decisions and who made them, proofs, charts and open work. Changes nothing.',
  icon: 'book-open',
  inputs: {
    ...migration,
    source: optional(
      connectionUrl,
      'PostgreSQL database to migrate. Without it, the dossier does not list the remaining differences.',
    ),
    path: optional(text, 'File to write. Default: `dossier.html` in the work folder of the job.'),
  },
  outputs: {
    dossier: 'Path of the file, for an upload as an artifact.',
    remaining: 'Number of definitions that differ between the two sides now; empty when they could not be compared.',
  },
})
