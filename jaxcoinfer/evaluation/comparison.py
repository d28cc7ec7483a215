"""One row per policy: its measures, its gain on a baseline, and how far it is below the bound,
paired row by row of the draw. Axis: K rows of the draw.
"""

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import one_line
from jaxcoinfer.evaluation.types import Row, RunError


def utility_by_row(tasks: Mapping[str, Tasks], name: str) -> dict[str, np.ndarray]:
    """Returns the mean utility per task of each policy in each row, [K]. Raises RunError if a row
    of scenario `name` finished no task.
    """
    try:
        return {policy: evaluate.by_row(one, one.utility) for policy, one in tasks.items()}
    except ValueError as error:
        raise RunError(f"scenario '{name}': {one_line(error)}") from None


def rows(
    tasks: Mapping[str, Tasks],
    own: Mapping[str, np.ndarray],
    bound: Mapping[str, np.ndarray],
    measures: Callable[[Tasks], dict[str, Interval]],
    compared: str,
    not_deployable: Container[str],
) -> dict[str, Row]:
    """Returns a `Row` for each policy; own, bound [K]: its utility in each row, and what no policy
    exceeds on its tasks.
    """
    return {
        name: Row(
            measures(one),
            evaluate.interval(own[name] - own[compared]),
            evaluate.interval(bound[name] - own[name]),
            name not in not_deployable,
        )
        for name, one in tasks.items()
    }


def pair(interval: Interval) -> dict[str, float | None]:
    """Returns an interval ready for JSON."""
    numbers = {"mean": interval.mean, "half_width": interval.half}
    return {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}


def flat(*intervals: Interval) -> list[float]:
    """Returns mean and half width of each, one after another."""
    return [number for interval in intervals for number in (interval.mean, interval.half)]


def curves_found(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], unit: str) -> dict[str, Any]:
    """Returns where learning ended, ready for JSON; curves: learner -> (steps [n], utility [n])."""
    return {
        name: {unit: int(steps[-1]), "utility": float(utility[-1])}
        for name, (steps, utility) in curves.items()
    }
