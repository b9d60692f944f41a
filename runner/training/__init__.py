"""Training. In: the configurations of K runs that may share a stack. Out: an `Outcome` of each, for the store."""
