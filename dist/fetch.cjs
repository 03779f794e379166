require('./molt-actions.cjs').main('fetch', 'run')
