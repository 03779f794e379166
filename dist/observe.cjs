require('node:fs').writeSync(1, 'molt-actions 0.1.0: observe\n')
require('./molt-actions.cjs').main('observe', 'run')
