require('./molt-actions.cjs').standIn('replicator')
