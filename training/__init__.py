"""Recipes, one per system: `python -m training.stopping`. Their results are appended to
`benchmarks/results/`.
"""
