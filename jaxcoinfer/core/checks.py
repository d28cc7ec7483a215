"""What the numbers of every system must pass before they are cast: shapes, ranges, shares.

Each function raises ValueError with the name, the value and what is allowed.
"""

import numpy as np

Numbers = dict[str, np.ndarray]


def require_shape(name: str, value: np.ndarray, wanted: tuple[int, ...], why: str = "") -> None:
    """Refuses a value of another shape; why: what `wanted` comes from."""
    if value.shape != wanted:
        raise ValueError(f"{name}: shape {value.shape}; must be {wanted}{why}.")


def require_finite(name: str, value: np.ndarray, *, above: bool = False) -> None:
    """Refuses numbers that are not finite, or below 0; with `above` also 0."""
    if not np.all(np.isfinite(value)) or np.any(value <= 0 if above else value < 0):
        bound = "above" if above else "at least"
        raise ValueError(f"{name}: {value}; every number must be finite and {bound} 0.")


def require_shares(name: str, value: np.ndarray) -> None:
    """Refuses shares above 1."""
    if np.any(value > 1):
        raise ValueError(f"{name}: {value.max()} is the largest; allowed: 0 to 1.")


def require_running_sum(name: str, value: np.ndarray) -> None:
    """Refuses a sum over layers that falls from one cut to the next, along the last axis."""
    if np.any(np.diff(value, axis=-1) < 0):
        raise ValueError(f"{name}: {value}; must not fall from a cut to the next: a running sum.")
