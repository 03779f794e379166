require('node:fs').writeSync(1, 'molt-actions 0.1.0: brief\n')
require('./molt-actions.cjs').main('brief', 'run')
