require('node:fs').writeSync(1, 'molt-actions 0.1.0: rollback\n')
require('./molt-actions.cjs').main('rollback', 'run')
