require('node:fs').writeSync(1, 'molt-actions 0.1.0: replicate\n')
require('./molt-actions.cjs').main('replicate', 'run')
