require('./molt-actions.cjs').main('replicate', 'run')
