"""How good a policy of `stopping` can be: the exact optimum and certified bounds."""
