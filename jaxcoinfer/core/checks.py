"""What the numbers of every system must pass before they are cast: shapes, ranges, shares.

Each function raises ValueError with the name, the value and what is allowed.
"""

import numpy as np
from jax import Array

Numbers = dict[str, np.ndarray]
AnyArray = np.ndarray | Array


def require_shape(name: str, value: AnyArray, wanted: tuple[int, ...], why: str = "") -> None:
    """Requires a shape; why: where `wanted` comes from."""
    if value.shape != wanted:
        raise ValueError(f"{name}: shape {value.shape}; must be {wanted}{why}.")


def is_amount(value: np.ndarray, *, above: bool = False) -> bool:
    """Returns whether all numbers are finite and at least 0, or with `above` above 0."""
    return bool(np.all(np.isfinite(value)) and not np.any(value <= 0 if above else value < 0))


def require_finite(name: str, value: np.ndarray, *, above: bool = False) -> None:
    """Requires finite numbers of at least 0, or with `above` above 0."""
    if not is_amount(value, above=above):
        bound = "above" if above else "at least"
        raise ValueError(f"{name}: {value}; every number must be finite and {bound} 0.")


def require_shares(name: str, value: np.ndarray, *, whole: bool = False) -> None:
    """Requires shares of at most 1; the message shows the largest, or with `whole` all of them."""
    if np.any(value > 1):
        shown = value if whole else f"{value.max()} is the largest"
        raise ValueError(f"{name}: {shown}; allowed: 0 to 1.")


def require_running_sum(name: str, value: np.ndarray) -> None:
    """Requires sums over layers that never fall from one cut to the next, along the last axis."""
    if np.any(np.diff(value, axis=-1) < 0):
        raise ValueError(f"{name}: {value}; must not fall from a cut to the next: a running sum.")


def require_range(
    name: str, value: AnyArray, low: float, high: float, allowed: str, *, above: bool = False
) -> None:
    """Requires finite numbers from low to high, with `above` without low itself; `allowed` says so
    in words.
    """
    lowest, highest = float(value.min()), float(value.max())
    from_low = low < lowest if above else low <= lowest
    if not (from_low and highest <= high and highest < np.inf):
        raise ValueError(f"{name}: from {lowest} to {highest}; allowed: {allowed}.")


def require_least(
    name: str, lowest: float, low: float, *, above: bool = False, where: str = ""
) -> None:
    """Requires of the lowest number of `name` that it is at least `low`, or with `above` above it.

    where: what the number is the lowest of, for the message, such as " of the bank".
    """
    if lowest < low or (above and lowest == low):
        bound = "above" if above else "at least"
        raise ValueError(f"{name}: {lowest} is the least{where}; allowed: {bound} {low}.")


def require_index(name: str, value: AnyArray, n: int, what: str) -> None:
    """Requires numbers from 0 to n - 1; what: they count these."""
    if int(value.min()) < 0 or int(value.max()) >= n:
        raise ValueError(f"{name}: up to {int(value.max())}; there are {n} {what}.")
