require('./molt-actions.cjs').main('verify', 'run')
