require('./molt-actions.cjs').main('fence', 'run')
