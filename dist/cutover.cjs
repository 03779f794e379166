require('./molt-actions.cjs').main('cutover', 'run')
