require('node:fs').writeSync(1, 'molt-actions 0.1.0: finalize\n')
require('./molt-actions.cjs').main('finalize', 'run')
