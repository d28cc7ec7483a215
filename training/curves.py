"""What is read off learning curves."""

import numpy as np


def first_lasting(curve: np.ndarray, steps: np.ndarray, goal: float, window: int = 5) -> float:
    """Returns the steps at the first evaluation from which `window` evaluations in a row average
    at least `goal`; NaN if there is none.
    """
    reached = np.flatnonzero(np.convolve(curve, np.ones(window) / window, mode="valid") >= goal)
    return float(steps[reached[0]]) if reached.size else float("nan")
