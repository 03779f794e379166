require('node:fs').writeSync(1, 'molt-actions 0.1.0: prepare\n')
require('./molt-actions.cjs').main('prepare', 'run')
