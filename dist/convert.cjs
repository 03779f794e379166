require('node:fs').writeSync(1, 'molt-actions 0.1.0: convert\n')
require('./molt-actions.cjs').main('convert', 'run')
