"""Deadline misses of an `on-demand` policy by class, with an interval fit for rare events.

Axes: N tasks, K rows, G classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from jaxcoinfer.envs.on_demand_params import Params
from jaxcoinfer.evaluate import Tasks
from jaxcoinfer.exogenous_on_demand import CLASS


@dataclass(frozen=True)
class MissRatio:
    """Share of tasks that missed, its 95 % interval, and from how many it comes."""

    mean: float
    low: float
    high: float
    misses: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.mean:.2g} ({self.low:.1g} to {self.high:.1g})"


def task_classes(tasks: Tasks, params: Params) -> np.ndarray:
    """Returns the class of each task, int [N]: a row's tasks are those of its slots in turn, from `delay_slots` on."""
    order = np.argsort(tasks.row, kind="stable")
    first = np.searchsorted(tasks.row[order], np.arange(tasks.n_rows))
    slot = np.empty_like(order)
    slot[order] = np.arange(len(order)) - first[tasks.row[order]] + int(params.delay_slots)
    return np.asarray(params.bank.slots[:, :, CLASS])[tasks.row, slot].astype(int)


def miss_ratios(tasks: Tasks, params: Params) -> tuple[MissRatio, ...]:
    """Returns the share of missed deadlines of each class [G], of tasks as `evaluate.run` returns them."""
    kinds = task_classes(tasks, params)
    deadline_s = np.asarray(params.deadline_s)
    missed = tasks.latency_s > deadline_s[kinds]
    return tuple(_ratio(tasks.row[kinds == g], missed[kinds == g], tasks.n_rows) for g in range(len(deadline_s)))


def _ratio(row: np.ndarray, missed: np.ndarray, n_rows: int) -> MissRatio:
    """Clopper-Pearson with the effective number of tasks (Korn and Graubard, Survey Methodology 24, 1998).

    Misses come in bursts, so n tasks tell as much as `n / max(1, D)` that were independent, with D the variance of the
    ratio over rows by that of n independent tasks. No miss at all still gives an upper end, about `3.7 / n`.
    """
    n, k = len(missed), int(missed.sum())
    if n == 0:
        return MissRatio(float("nan"), 0.0, 1.0, 0, 0)
    ratio, effective = k / n, float(n)
    if 0 < k < n:
        count = np.bincount(row, minlength=n_rows)
        residual = np.bincount(row, missed, minlength=n_rows) - ratio * count
        variance = n_rows / (n_rows - 1) * (residual**2).sum() / n**2
        effective = n / max(1.0, variance / (ratio * (1 - ratio) / n))
    hits = ratio * effective
    low = stats.beta.ppf(0.025, hits, effective - hits + 1) if k > 0 else 0.0
    high = stats.beta.ppf(0.975, hits + 1, effective - hits) if k < n else 1.0
    return MissRatio(ratio, float(low), float(high), k, n)
