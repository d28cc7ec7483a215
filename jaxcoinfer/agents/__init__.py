"""Learners: Flax networks, pure losses, training in one jitted scan."""
