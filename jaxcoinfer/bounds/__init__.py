"""How good a policy can be: exact optima and certified bounds."""
