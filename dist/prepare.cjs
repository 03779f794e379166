require('./molt-actions.cjs').main('prepare', 'run')
