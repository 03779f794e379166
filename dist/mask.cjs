require('./molt-actions.cjs').main('mask', 'run')
