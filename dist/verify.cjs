require('node:fs').writeSync(1, 'molt-actions 0.1.0: verify\n')
require('./molt-actions.cjs').main('verify', 'run')
