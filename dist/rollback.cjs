require('./molt-actions.cjs').main('rollback', 'run')
