"""One row per policy: its measures, its gain on a baseline, and how far it is below the bound,
paired row by row of the draw. Axes: S seeds, K rows of the draw.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np

from jaxcoinfer.evaluation import protocol
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import one_line
from jaxcoinfer.evaluation.types import Row, RunError, Sheet

# Policy -> its tasks on the same rows, from each seed it was trained from; one where none was.
Played = Mapping[str, Sequence[Tasks]]


def utility(played: Played, name: str) -> dict[str, np.ndarray]:
    """Returns the mean utility per task of each policy, seed and row, [S, K]. Raises RunError if a
    row of scenario `name` finished no task.
    """
    try:
        return {policy: protocol.utility(seeds) for policy, seeds in played.items()}
    except ValueError as error:
        raise RunError(f"scenario '{name}': {one_line(error)}") from None


def rows(
    played: Played,
    bound: Mapping[str, np.ndarray],
    measures: Callable[[Tasks], dict[str, np.ndarray]],
    clusters: Sequence[str],
    compared: str,
    not_deployable: Container[str],
) -> dict[str, Row]:
    """Returns a `Row` for each policy; bound [S, K]: what no policy exceeds on its tasks."""
    own = {policy: protocol.utility(seeds) for policy, seeds in played.items()}
    return {
        name: Row(
            protocol.intervals(seeds, measures, clusters),
            protocol.interval(own[name] - own[compared], clusters),
            protocol.interval(bound[name] - own[name], clusters),
            name not in not_deployable,
        )
        for name, seeds in played.items()
    }


def differences_sheet(
    utility: Mapping[str, np.ndarray], clusters: Sequence[str], references: Container[str]
) -> Sheet:
    """Returns how much more utility [S, K] each policy has than each other that is no reference,
    paired row by row, a CSV file.
    """
    lines = [
        (name, other, *flat(protocol.interval(own - utility[other], clusters)))
        for name, own in utility.items()
        for other in utility
        if other != name and other not in references
    ]
    return ("policy", "above", "utility", "half_width"), lines


def links_sheet(played: Played, clusters: Sequence[str]) -> Sheet:
    """Returns the utility of each policy on each link, a CSV file: mean over its seeds."""
    names = tuple(dict.fromkeys(clusters))
    lines = [
        (name, link, float(value))
        for name, seeds in played.items()
        for link, value in zip(
            names, protocol.by_cluster(protocol.utility(seeds), clusters).mean(axis=0), strict=True
        )
    ]
    return ("policy", "link", "utility"), lines


def pair(interval: Interval) -> dict[str, float | None]:
    """Returns an interval ready for JSON."""
    numbers = {"mean": interval.mean, "half_width": interval.half}
    return {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}


def flat(*intervals: Interval) -> list[float]:
    """Returns mean and half width of each, one after another."""
    return [number for interval in intervals for number in (interval.mean, interval.half)]
