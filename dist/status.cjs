require('./molt-actions.cjs').main('status', 'run')
