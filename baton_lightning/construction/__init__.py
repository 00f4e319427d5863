"""Construction of networks: deferred construction, loading of parents' weights, and sharding."""
