require('node:fs').writeSync(1, 'molt-actions 0.1.0: abort\n')
require('./molt-actions.cjs').main('abort', 'run')
