"""What every system shares: the contract of an environment, rollouts, generators, sharding."""
