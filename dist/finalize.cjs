require('./molt-actions.cjs').main('finalize', 'run')
