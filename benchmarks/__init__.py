"""One script a question; `python -m benchmarks.NAME`. Results are appended to `benchmarks/results/`
as JSON lines.
"""
