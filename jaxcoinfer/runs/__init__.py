"""Runs: train and evaluate (`stopping`, `on_demand`: see `types.System`), and keep what came of it (`folder`)."""
