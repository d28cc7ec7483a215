"""Reference simulators in plain Python and NumPy, written from shared/design.md alone."""
