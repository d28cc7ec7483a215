"""Runs: train and evaluate (`pipeline`), at other numbers of a scenario too (`sweeps`), and keep it (`folder`)."""
