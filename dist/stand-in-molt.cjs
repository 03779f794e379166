require('./molt-actions.cjs').standIn('molt')
