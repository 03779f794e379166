require('./molt-actions.cjs').main('fence', 'post')
