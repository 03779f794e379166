require('node:fs').writeSync(1, 'molt-actions 0.1.0: fence (post)\n')
require('./molt-actions.cjs').main('fence', 'post')
