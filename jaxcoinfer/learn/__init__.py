"""Learners: algorithms, networks, distributions, the training loop and its checkpoints."""
