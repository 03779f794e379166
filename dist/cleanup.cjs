require('node:fs').writeSync(1, 'molt-actions 0.1.0: cleanup\n')
require('./molt-actions.cjs').main('cleanup', 'run')
