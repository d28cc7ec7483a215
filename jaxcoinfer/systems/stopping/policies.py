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
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload

# What learns: a module with `Config`, `Hyper`, `train` and `policy`. METHOD, the published one, is
# compared with itself without the twin; BEST is drawn and, by its `interface`, exported.
METHOD, BEST = "continuation value", "differential value"
LEARNERS: dict[str, Any] = {METHOD: continuation_value, BEST: differential_value}
WITHOUT_TWIN = f"{METHOD}, no twin"  # of the learning curves
# What needs no learning, besides the best fixed point, which is chosen on the training draw.
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
THRESHOLD = "threshold exit"  # where the confidence of an exit head is observed
COMPARED = "one-time greedy"  # gains are differences to this one
EXACT = "exact optimum"
# One knows the future, the other the law of the world.
NOT_DEPLOYABLE = frozenset({"clairvoyant", EXACT})


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What baselines take from the training draw."""

    fixed: int  # the best fixed choice
    # Confidence from which it is best to settle for the exit head's answer; None where it is not
    # observed.
    threshold: float | None


def baseline_policies(env: Stopping, chosen: Chosen) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name."""
    policies = {name: build(env) for name, build in BASELINES.items()}
    policies["best fixed point"] = baselines.fixed(chosen.fixed)
    if chosen.threshold is not None:
        policies[THRESHOLD] = baselines.threshold_exit(env, chosen.threshold)
    return policies


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
    # The ends: always settle, and never.
    thresholds = jnp.concatenate([jnp.zeros((1,)), edges, jnp.full((1,), 1.1)])

    def settle(state: State, params: Params, threshold: jax.Array) -> jax.Array:
        samples: Any = params.samples  # there are some, as above
        sure = stopping_samples.record(samples, state.row, state.task)[-1] >= threshold
        return jnp.where(sure, env.n_layers + 1, env.n_layers)

    utility = _mean_utility(env, params, settle, thresholds, n_tasks)
    return Chosen(fixed, float(thresholds[np.argmax(utility)]))


def _mean_utility(
    env: Stopping, params: Params, decide: Callable, numbers: jax.Array, n_tasks: int
) -> np.ndarray:
    """Mean utility per task if `decide(state, params, number) -> choice` decides all, for each of
    the numbers.
    """

    def play(params: Params, row: jax.Array, number: jax.Array):
        def task(state: State, _: None):
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
