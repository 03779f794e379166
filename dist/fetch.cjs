require('node:fs').writeSync(1, 'molt-actions 0.1.0: fetch\n')
require('./molt-actions.cjs').main('fetch', 'run')
