"""Who is compared in `stopping`: learners and baselines by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.systems.stopping import baselines, continuation_value, differential_value
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.twin import workload

# What learns: a module with `Config`, `Hyper`, `train` and `policy`. METHOD, the published one, is
# compared with itself without the twin; BEST is looked at and, by its `interface`, exported.
METHOD, BEST = "continuation value", "differential value"
LEARNERS: dict[str, Any] = {METHOD: continuation_value, BEST: differential_value}
WITHOUT_TWIN = f"{METHOD}, no twin"  # of the learning curves
# What needs no learning, beside the best fixed point, for which the training draw is asked.
BASELINES: dict[str, Callable[[Stopping], Policy]] = {
    "one-time greedy": baselines.one_time_greedy,
    "one-time waiting": baselines.one_time_waiting,
    "adaptive waiting": baselines.adaptive_waiting,
    "neurosurgeon": baselines.neurosurgeon,
    "device only": lambda env: baselines.fixed(env.n_layers + 1),
    "edge only": lambda env: baselines.fixed(0),
    "random": lambda env: baselines.random_choice(),
    "clairvoyant": baselines.clairvoyant,
}
THRESHOLD = "threshold exit"  # where an exit head is looked at
COMPARED = "one-time greedy"  # gains are differences to this one
EXACT = "exact optimum"
NOT_DEPLOYABLE = frozenset(
    {"clairvoyant", EXACT}
)  # one knows the future, the other the law of the world


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What baselines take from the training draw: fixed, the best fixed choice; threshold, the
    confidence from which it is best to settle for the exit head's answer, None where nobody looks
    at it.
    """

    fixed: int
    threshold: float | None


def baseline_policies(env: Stopping, chosen: Chosen) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name."""
    found = {name: build(env) for name, build in BASELINES.items()} | {
        "best fixed point": baselines.fixed(chosen.fixed)
    }
    return (
        found
        if chosen.threshold is None
        else found | {THRESHOLD: baselines.threshold_exit(env, chosen.threshold)}
    )


def choose(env: Stopping, params: Params, n_tasks: int = 512) -> Chosen:
    """Returns what gives the most utility over the first n_tasks tasks of every row of the training
    draw.
    """
    choices = jnp.arange(env.n_choices, dtype=jnp.int32)
    fixed = int(
        np.argmax(
            _mean_utility(env, params, lambda state, params, choice: choice, choices, n_tasks)
        )
    )
    if params.samples is None:
        return Chosen(fixed, None)
    edges = params.samples.edges
    thresholds = jnp.concatenate(
        [jnp.zeros((1,)), edges, jnp.full((1,), 1.1)]
    )  # the ends: always settle, and never

    def settle(state, params, least):
        sure = stopping_samples.record(params.samples, state.row, state.task)[-1] >= least
        return jnp.where(sure, env.n_layers + 1, env.n_layers)

    utility = _mean_utility(env, params, settle, thresholds, n_tasks)
    return Chosen(fixed, float(thresholds[np.argmax(utility)]))


def _mean_utility(
    env: Stopping, params: Params, decide: Callable, numbers: jax.Array, n_tasks: int
) -> np.ndarray:
    """Mean utility a task if `decide(state, params, number) -> choice` decides all, for each of the
    numbers.
    """

    def play(params, row, number):
        def task(state, _):
            replay = workload.evaluate(env, state, params)
            choice = decide(state, params, number)
            utility = jnp.where(state.done, 0.0, replay.choices.utility[choice])
            return workload.follow(replay, choice, params), (utility, ~state.done)

        state, _ = env.reset_at(row, jnp.int32(0), params)
        utility, counted = jax.lax.scan(task, state, length=n_tasks)[1]
        return utility.sum(), counted.sum()

    rows = jnp.arange(params.bank.n_rows, dtype=jnp.int32)
    each = jax.jit(jax.vmap(jax.vmap(play, (None, 0, None)), (None, None, 0)))
    total, count = (
        np.asarray(sums, np.float64).sum(axis=1) for sums in each(params, rows, numbers)
    )
    return total / np.maximum(count, 1)
