require('./molt-actions.cjs').main('abort', 'run')
