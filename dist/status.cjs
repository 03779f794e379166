require('node:fs').writeSync(1, 'molt-actions 0.1.0: status\n')
require('./molt-actions.cjs').main('status', 'run')
