require('node:fs').writeSync(1, 'molt-actions 0.1.0: gate\n')
require('./molt-actions.cjs').main('gate', 'run')
