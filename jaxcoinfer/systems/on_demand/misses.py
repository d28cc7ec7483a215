"""Deadline misses of an `on-demand` policy by class, with an interval fit for rare events.

Axes: N tasks, K rows, G classes.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.systems.on_demand.exogenous import CLASS, slot_at
from jaxcoinfer.systems.on_demand.params import Params


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
    """Returns the class of each task, int [N]: a row's tasks are those of its slots in turn, from
    `delay_slots` on.
    """
    order = np.argsort(tasks.row, kind="stable")
    first = np.searchsorted(tasks.row[order], np.arange(tasks.n_rows))
    slot = np.empty_like(order)
    slot[order] = np.arange(len(order)) - first[tasks.row[order]] + int(params.delay_slots)
    return np.asarray(params.bank.slots[:, :, CLASS])[tasks.row, slot].astype(int)


def miss_ratios(tasks: Tasks, params: Params) -> tuple[MissRatio, ...]:
    """Returns the share of missed deadlines of each class [G], of tasks as `evaluate.run` returns
    them.
    """
    kinds = task_classes(tasks, params)
    deadline_s = np.asarray(params.deadline_s)
    late, count = np.zeros((2, tasks.n_rows, len(deadline_s)), np.int64)
    np.add.at(late, (tasks.row, kinds), tasks.latency_s > deadline_s[kinds])
    np.add.at(count, (tasks.row, kinds), 1)
    return ratios(late, count)


def count(env: Any, params: Params, policy: Policy, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns how many tasks of each row and class missed, and how many there were, int32 [K, G];
    consumes the key.

    For many tasks: nothing else of them is kept. Jittable; env: an `OnDemand`, or that with memory.
    """
    first = jnp.asarray(params.delay_slots, jnp.int32)

    def one_row(row, key):
        def task(carry, step):
            state, timestep, late, seen = carry
            key, slot = step
            kind = slot_at(params.bank, row, slot).task_class
            action = policy(key, state, timestep.observation, params)
            state, timestep = env.step(state, action, params)
            outcome = timestep.outcome
            own = (jnp.arange(params.deadline_s.shape[0]) == kind) & outcome.finished
            missed = own & (outcome.latency_s > params.deadline_s)
            return (
                state,
                timestep,
                late + missed.astype(jnp.int32),
                seen + own.astype(jnp.int32),
            ), None

        none = jnp.zeros(params.deadline_s.shape, jnp.int32)
        n_slots = params.bank.n_slots
        steps = (jax.random.split(key, n_slots), first + jnp.arange(n_slots, dtype=jnp.int32))
        (_, _, late, seen), _ = jax.lax.scan(
            task, (*env.reset_at(row, first, params), none, none), steps
        )
        return late, seen

    n_rows = params.bank.n_rows
    return jax.vmap(one_row)(jnp.arange(n_rows, dtype=jnp.int32), jax.random.split(key, n_rows))


def ratios(late: np.ndarray, count: np.ndarray) -> tuple[MissRatio, ...]:
    """Returns the share of missed deadlines of each class [G] from counts by row and class [K, G]."""
    return tuple(_ratio(late[:, g], count[:, g]) for g in range(late.shape[1]))


def _ratio(late: np.ndarray, count: np.ndarray) -> MissRatio:
    """Clopper-Pearson with the effective number of tasks (Korn and Graubard, Survey Methodology 24,
    1998).

    Misses come in bursts, so n tasks tell as much as `n / max(1, D)` that were independent, with D
    the variance of the ratio over rows by that of n independent tasks. No miss at all still gives
    an upper end, about `3.7 / n`.
    """
    n, k, n_rows = int(count.sum()), int(late.sum()), len(count)
    if n == 0:
        return MissRatio(float("nan"), 0.0, 1.0, 0, 0)
    ratio, effective = k / n, float(n)
    if 0 < k < n:
        variance = n_rows / (n_rows - 1) * ((late - ratio * count) ** 2).sum() / n**2
        effective = n / max(1.0, variance / (ratio * (1 - ratio) / n))
    hits = ratio * effective
    low = stats.beta.ppf(0.025, hits, effective - hits + 1) if k > 0 else 0.0
    high = stats.beta.ppf(0.975, hits + 1, effective - hits) if k < n else 1.0
    return MissRatio(ratio, float(low), float(high), k, n)
