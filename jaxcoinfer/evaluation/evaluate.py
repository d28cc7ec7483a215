"""All policies on the same randomness: what they achieve, with which interval, how they differ.

Every policy runs through every row of a bank, from the first slot until the row ends, and two
policies are compared row by row. `interval` takes independent values; where rows are windows of the
same links, or policies come from several seeds, `protocol.interval` is the one. Axes: K rows, N
tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxcoinfer.core.contract import Env, Outcome, TimeStep
from jaxcoinfer.core.rollout import Policy, unroll

_STEPS = 1024  # per jitted stretch; after each the host checks whether all rows are done


@dataclass(frozen=True)
class Tasks:
    """Every task that one policy finished, with the numbers of its `Outcome`."""

    row: np.ndarray  # int [N], in which row it was
    choice: np.ndarray  # int [N]
    latency_s: np.ndarray  # [N]
    energy_j: np.ndarray  # [N]
    accuracy: np.ndarray  # [N], in [0, 1]
    utility: np.ndarray  # [N]
    reports: np.ndarray  # int [N]
    decisions: np.ndarray  # int [K], of all tasks of a row
    n_rows: int  # K


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    half: float  # half the width; NaN where there are fewer than two rows

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half:.4f}"


def run(env: Env, worlds: Sequence[Any], policy: Policy, key: jax.Array) -> list[Tasks]:
    """Returns the tasks of `policy` in each world (`params` of equal shapes: one compilation);
    consumes the key.
    """

    @jax.jit
    def stretch(key: jax.Array, state: Any, timestep: TimeStep, params: Any) -> tuple:
        alive = ~timestep.truncated
        state, timestep, steps = unroll(env, params, policy, key, state, timestep, _STEPS)
        acted = jnp.concatenate([alive[None], ~steps.truncated[:-1]]).sum(axis=0)
        return state, timestep, steps.outcome, acted

    return [
        _run_world(env, params, stretch, jax.random.fold_in(key, i))
        for i, params in enumerate(worlds)
    ]


def _run_world(env: Env, params: Any, stretch: Callable[..., tuple], key: jax.Array) -> Tasks:
    n_rows = params.bank.n_rows
    rows = jnp.arange(n_rows, dtype=jnp.int32)
    state, timestep = jax.vmap(env.reset_at, (0, None, None))(rows, jnp.int32(0), params)
    parts: list[Outcome] = []
    decisions = np.zeros(n_rows, np.int64)
    while not bool(timestep.truncated.all()):
        key, key_stretch = jax.random.split(key)
        state, timestep, outcome, acted = stretch(key_stretch, state, timestep, params)
        parts.append(jax.tree.map(np.asarray, outcome))
        decisions += np.asarray(acted)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    finished = joined.finished
    row = np.broadcast_to(np.arange(n_rows), finished.shape)
    fields = ("choice", "latency_s", "energy_j", "accuracy", "utility", "reports")
    return Tasks(
        row[finished],
        *(getattr(joined, name)[finished] for name in fields),
        decisions=decisions,
        n_rows=n_rows,
    )


def interval(per_row: np.ndarray) -> Interval:
    """Returns mean and 95 % half width `t_{.975, K-1} s / sqrt(K)` of independent values [K], with
    standard deviation s.
    """
    n = len(per_row)
    if n < 2:
        return Interval(float(np.mean(per_row)), float("nan"))
    half = stats.t.ppf(0.975, n - 1) * np.std(per_row, ddof=1) / np.sqrt(n)
    return Interval(float(np.mean(per_row)), float(half))


def count_by_row(tasks: Tasks) -> np.ndarray:
    """Returns how many tasks each row finished, [K]."""
    return np.bincount(tasks.row, minlength=tasks.n_rows)


def by_row(tasks: Tasks, values: np.ndarray) -> np.ndarray:
    """Returns the mean of `values` [N] over the tasks of each row, [K]."""
    count = count_by_row(tasks)
    if not count.all():
        raise ValueError(
            f"row {int(np.argmin(count))} finished no task: use longer rows or more arrivals."
        )
    return np.bincount(tasks.row, values, minlength=tasks.n_rows) / count


def _row_percentile(tasks: Tasks, share: float) -> np.ndarray:
    ordered = np.lexsort((tasks.latency_s, tasks.row))
    rows = np.split(tasks.latency_s[ordered], np.cumsum(count_by_row(tasks))[:-1])
    return np.array([np.percentile(row, share) for row in rows])


def measures(tasks: Tasks, n_choices: int, deadline_s: float | np.ndarray) -> dict[str, np.ndarray]:
    """Returns every measure of one policy by name, in each row [K].

    `choice_i` is the share of tasks that took choice i. deadline_s: of all tasks, or of each [N].
    """
    values = {
        "utility": tasks.utility,
        "latency_s": tasks.latency_s,
        "deadline_misses": (tasks.latency_s > deadline_s).astype(float),
        "accuracy": tasks.accuracy,
        "energy_j": tasks.energy_j,
        "reports_per_task": tasks.reports,
        **{f"choice_{i}": (tasks.choice == i).astype(float) for i in range(n_choices)},
    }
    found = {name: by_row(tasks, value) for name, value in values.items()}
    found |= {f"latency_p{share}_s": _row_percentile(tasks, share) for share in (50, 95, 99)}
    count = count_by_row(tasks)
    return found | {"decisions_per_task": tasks.decisions / count, "tasks": count.astype(float)}


def summarise(tasks: Tasks, n_choices: int, deadline_s: float | np.ndarray) -> dict[str, Interval]:
    """Returns every one of `measures` with its interval over rows that are draws of their own."""
    by_name = measures(tasks, n_choices, deadline_s)
    return {name: interval(values) for name, values in by_name.items()}


def difference(tasks: Tasks, baseline: Tasks) -> Interval:
    """Returns the mean utility per task of a policy above that of a baseline, paired row by row."""
    return interval(by_row(tasks, tasks.utility) - by_row(baseline, baseline.utility))


def evaluate(
    env: Env, params: Any, policies: Mapping[str, Policy], key: jax.Array
) -> dict[str, Tasks]:
    """Returns the tasks of every policy on the rows of `params.bank`; all see the same draw.
    Consumes the key.
    """
    return {
        name: run(env, [params], policy, jax.random.fold_in(key, i))[0]
        for i, (name, policy) in enumerate(policies.items())
    }
