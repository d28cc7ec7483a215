"""Quantities of the simulated world, one a function, units in the names."""
