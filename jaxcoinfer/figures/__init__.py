"""Every plot: data in, a matplotlib `Figure` out; nothing is shown, saved or kept.

A policy has the same colour, mark and line in every figure. Intervals are 95 %. Figures are 900 × 600 pixels or less.
"""
