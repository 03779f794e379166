require('./molt-actions.cjs').main('setup', 'run')
