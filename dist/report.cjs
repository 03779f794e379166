require('node:fs').writeSync(1, 'molt-actions 0.1.0: report\n')
require('./molt-actions.cjs').main('report', 'run')
