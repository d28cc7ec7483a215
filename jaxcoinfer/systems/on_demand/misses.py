"""Deadline misses of an `on-demand` policy by class, with an interval that suits rare events.

Axes: N tasks, K rows, G classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxcoinfer.core.contract import Env
from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.systems.on_demand.exogenous import CLASS, slot_at
from jaxcoinfer.systems.on_demand.params import Params


@dataclass(frozen=True)
class MissRatio:
    """Share of tasks that missed their deadline, with its 95 % interval."""

    mean: float
    low: float
    high: float
    misses: int  # tasks that were late
    tasks: int  # of how many

    def __str__(self) -> str:
        return f"{self.mean:.2g} ({self.low:.1g} to {self.high:.1g})"


def task_classes(tasks: Tasks, params: Params) -> np.ndarray:
    """Returns the class of each task, int [N].

    A row has one task per slot, in order, from slot `delay_slots` on.
    """
    order = np.argsort(tasks.row, kind="stable")
    first = np.searchsorted(tasks.row[order], np.arange(tasks.n_rows))
    slot = np.empty_like(order)
    slot[order] = np.arange(len(order)) - first[tasks.row[order]] + int(params.delay_slots)
    return np.asarray(params.bank.slots[:, :, CLASS])[tasks.row, slot].astype(int)


def miss_ratios(
    seeds: Sequence[Tasks], params: Params, clusters: Sequence[str]
) -> tuple[MissRatio, ...]:
    """Returns the share of late tasks of each class [G], of all seeds together; clusters [K]: rows
    that count as one.
    """
    deadline_s, names = np.asarray(params.deadline_s), list(dict.fromkeys(clusters))
    place = np.array([names.index(name) for name in clusters])
    late, count = np.zeros((2, len(names), len(deadline_s)), np.int64)
    for tasks in seeds:
        classes = task_classes(tasks, params)
        where = (place[tasks.row], classes)
        np.add.at(late, where, tasks.latency_s > deadline_s[classes])
        np.add.at(count, where, 1)
    return ratios(late, count)


def count(env: Env, params: Params, policy: Policy, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the late tasks and all tasks of each row and class, counts int32 [K, G]; consumes the
    key.

    For very many tasks, of which nothing else is kept. Jittable; env: an `OnDemand`, or one in a
    `Stacked`.
    """
    first = jnp.asarray(params.delay_slots, jnp.int32)

    def count_row(row: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def task(carry: tuple, key_slot: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
            state, timestep, late, total = carry
            key, slot = key_slot
            task_class = slot_at(params.bank, row, slot).task_class
            action = act(env, policy, key, state, timestep.observation, params)
            state, timestep = env.step(state, action, params)
            outcome = timestep.outcome
            of_class = (jnp.arange(params.deadline_s.shape[0]) == task_class) & outcome.finished
            missed = of_class & (outcome.latency_s > params.deadline_s)
            late, total = late + missed.astype(jnp.int32), total + of_class.astype(jnp.int32)
            return (state, timestep, late, total), None

        zeros = jnp.zeros(params.deadline_s.shape, jnp.int32)
        n_slots = params.bank.n_slots
        steps = (jax.random.split(key, n_slots), first + jnp.arange(n_slots, dtype=jnp.int32))
        begin = (*env.reset_at(row, first, params), zeros, zeros)
        (_, _, late, total), _ = jax.lax.scan(task, begin, steps)
        return late, total

    n_rows = params.bank.n_rows
    return jax.vmap(count_row)(jnp.arange(n_rows, dtype=jnp.int32), jax.random.split(key, n_rows))


def ratios(late: np.ndarray, count: np.ndarray) -> tuple[MissRatio, ...]:
    """Returns the share of late tasks of each class [G] from counts by row and class [K, G]."""
    return tuple(_ratio(late[:, g], count[:, g]) for g in range(late.shape[1]))


def _ratio(late: np.ndarray, count: np.ndarray) -> MissRatio:
    """Clopper-Pearson with the effective number of tasks (Korn and Graubard, Survey Methodology 24,
    1998).

    Misses come in bursts, so n tasks tell as much as `n / max(1, D)` independent ones, where D is
    the variance of the ratio over rows divided by that of n independent tasks. Without any miss
    there still is an upper end, about `3.7 / n`.
    """
    n, k, n_rows = int(count.sum()), int(late.sum()), len(count)
    if n == 0:
        return MissRatio(float("nan"), 0.0, 1.0, 0, 0)
    ratio, effective = k / n, float(n)
    if 0 < k < n and n_rows == 1:  # nothing tells how misses of one link cluster
        return MissRatio(ratio, 0.0, 1.0, k, n)
    if 0 < k < n:
        variance = n_rows / (n_rows - 1) * ((late - ratio * count) ** 2).sum() / n**2
        effective = n / max(1.0, variance / (ratio * (1 - ratio) / n))
    hits = ratio * effective
    low = stats.beta.ppf(0.025, hits, effective - hits + 1) if k > 0 else 0.0
    high = stats.beta.ppf(0.975, hits + 1, effective - hits) if k < n else 1.0
    return MissRatio(ratio, float(low), float(high), k, n)
