require('node:fs').writeSync(1, 'molt-actions 0.1.0: fence\n')
require('./molt-actions.cjs').main('fence', 'run')
