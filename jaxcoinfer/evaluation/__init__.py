"""What policies achieve: evaluation, comparison, plots, and the executor that runs it."""
