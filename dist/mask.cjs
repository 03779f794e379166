require('node:fs').writeSync(1, 'molt-actions 0.1.0: mask\n')
require('./molt-actions.cjs').main('mask', 'run')
