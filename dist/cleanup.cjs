require('./molt-actions.cjs').main('cleanup', 'run')
