require('node:fs').writeSync(1, 'molt-actions 0.1.0: cutover\n')
require('./molt-actions.cjs').main('cutover', 'run')
