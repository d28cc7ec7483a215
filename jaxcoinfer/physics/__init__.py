"""Quantities of the simulated world, one per function, with units in the names."""
