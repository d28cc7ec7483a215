"""What is reported of the policies of `multi-user`: measures, and decisions by distance.

Axes: K episodes, N decisions, S splits, B bins of distance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.systems.multi_user.evaluation import Decisions, Episodes
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario

N_BINS = 8  # of distance


@dataclass(frozen=True)
class PerTask:
    """What a task of an episode costs."""

    cost: np.ndarray  # [K], delay_s + energy_weight * energy_j
    delay_s: np.ndarray  # [K], seconds of the episode, divided by the tasks of a user
    energy_j: np.ndarray  # [K], joules of the episode, divided by the tasks of all users


@dataclass(frozen=True)
class Choices:
    """How a policy decides by distance."""

    edges_m: np.ndarray  # [B + 1], of the bins
    decisions: np.ndarray  # int [B, S], how many take each split
    power_w: np.ndarray  # [B], mean; NaN where nothing was decided


def per_task(episodes: Episodes, scenario: MultiUserScenario) -> PerTask:
    """Returns what a task of each episode costs."""
    delay_s = episodes.slots * scenario.slot_s * scenario.users / episodes.tasks
    energy_j = episodes.energy_j / episodes.tasks
    return PerTask(delay_s + scenario.energy_weight * energy_j, delay_s, energy_j)


def measures(episodes: Episodes, scenario: MultiUserScenario) -> dict[str, np.ndarray]:
    """Returns every measure of one policy by name, of each episode [K].

    utility: reward of an episode. cost, latency_s, energy_j: as in `PerTask`.
    """
    task = per_task(episodes, scenario)
    values = {
        "utility": episodes.reward,
        "cost": task.cost,
        "latency_s": task.delay_s,
        "energy_j": task.energy_j,
        "slots": episodes.slots,
        "ended": episodes.ended,
    }
    return {name: value.astype(float) for name, value in values.items()}


def printed(
    episodes: Mapping[str, Sequence[Episodes]],
    rows: Mapping[str, dict[str, Interval]],
    n_splits: int,
) -> Sheet:
    """Returns what the table of policies leaves out, as text: the best first."""
    lines = []
    for name in sorted(rows, key=lambda name: -rows[name]["utility"].mean):
        split = np.concatenate([one.decisions.split for one in episodes[name]])
        power_w = np.concatenate([one.decisions.power_w for one in episodes[name]])
        shares = [np.mean(split == end) for end in (0, n_splits - 1)]
        cells = [
            f"{1e3 * rows[name]['cost'].mean:.1f}",
            f"{rows[name]['slots'].mean:.1f}",
            f"{100 * shares[0]:.0f}",
            f"{100 * (1 - sum(shares)):.0f}",
            f"{100 * shares[1]:.0f}",
            f"{power_w.mean():.3f}",
        ]
        lines.append((name, *cells))
    heads = (
        "utility: reward of an episode",
        "cost per\ntask, 10⁻³",
        "slots",
        "all\nsent %",
        "divided\n%",
        "none\nsent %",
        "power\nW",
    )
    return heads, lines


def choices(decisions: Decisions, distances_m: np.ndarray, n_splits: int) -> Choices:
    """Returns how a policy decides by distance; distances_m [2]: their range."""
    nearest_m, farthest_m = map(float, distances_m)
    edges_m = np.linspace(nearest_m, farthest_m, N_BINS + 1)
    bins = np.clip(np.searchsorted(edges_m, decisions.distance_m, "right") - 1, 0, N_BINS - 1)
    count = np.zeros((N_BINS, n_splits), int)
    np.add.at(count, (bins, decisions.split), 1)
    power_w = np.bincount(bins, decisions.power_w, minlength=N_BINS)
    n = count.sum(axis=1)
    return Choices(edges_m, count, np.where(n > 0, power_w / np.maximum(n, 1), np.nan))


def choices_sheet(by_policy: Mapping[str, Choices]) -> Sheet:
    """Returns how many decisions at each distance take each split, as a CSV file; those that none
    takes are left out.
    """
    rows = [
        (name, float(table.edges_m[i]), float(table.edges_m[i + 1]), int(split), int(count))
        for name, table in by_policy.items()
        for (i, split), count in np.ndenumerate(table.decisions)
        if count
    ]
    return ("policy", "from_m", "to_m", "split", "decisions"), rows


def powers_sheet(by_policy: Mapping[str, Choices]) -> Sheet:
    """Returns the mean power at each distance, as a CSV file."""
    rows = [
        (name, float(low), float(high), float(power_w))
        for name, table in by_policy.items()
        for low, high, power_w in zip(
            table.edges_m[:-1], table.edges_m[1:], table.power_w, strict=True
        )
        if np.isfinite(power_w)
    ]
    return ("policy", "from_m", "to_m", "power_w"), rows
