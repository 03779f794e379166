require('node:fs').writeSync(1, 'molt-actions 0.1.0: setup\n')
require('./molt-actions.cjs').main('setup', 'run')
