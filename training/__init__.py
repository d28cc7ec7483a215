"""Recipes, one a system: `python -m training.stopping`. What they find is appended to
`benchmarks/results/`.
"""
