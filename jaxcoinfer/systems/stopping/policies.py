"""Who is compared in `stopping`: learners and baselines by name."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import seeds
from jaxcoinfer.evaluation.executor import Learned
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems.stopping import (
    baselines,
    continuation_value,
    differential_value,
    predictive_control,
    price_rule,
)
from jaxcoinfer.systems.stopping import samples as stopping_samples
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.price_rule import Prices
from jaxcoinfer.systems.stopping.state import State
from jaxcoinfer.systems.stopping.twin import workload


@dataclasses.dataclass(frozen=True)
class Learner:
    """How one learner learns."""

    module: Any  # with `Config`, `Hyper`, `Weights`, `train` and `policy`
    config: Any  # of a run's training
    corrects_prices: bool = True  # whether it starts from the price rule

    def train(
        self, keys: jax.Array, params: Params, env: Stopping, config: Any, prices: Prices | None
    ) -> TrainResult:
        """Returns what it learned from each of the keys [S]: every leaf [S, ...]; consumes them."""
        hyper = self.module.Hyper(prices=prices if self.corrects_prices else None)

        def train_once(key: jax.Array) -> TrainResult:
            return self.module.train(key, params, hyper, env=env, config=config)

        return seeds.train(keys, train_once)

    def learned(self, env: Stopping, config: Any, weights: Any) -> Learned:
        """Returns its policies; weights: leaves [S, ...]."""
        build = partial(self.module.policy, env, config)
        return Learned(build, jax.tree.map(jnp.asarray, weights))


# PUBLISHED is the method of the paper as it stands, METHOD the same mended, compared with itself
# without the twin; BEST is drawn and, by its `interface`, exported.
PUBLISHED, METHOD, BEST = "published stopping", "continuation value", "differential value"
# Small batches, evaluated often: the first points of the learning curve then lie before the method
# has learned.
_METHOD = continuation_value.Config(
    n_devices=32,
    n_evaluations=50,
    updates_per_evaluation=10,
    evaluation_devices=32,
    evaluation_tasks=50,
)
LEARNERS: dict[str, Learner] = {
    PUBLISHED: Learner(
        continuation_value, dataclasses.replace(_METHOD, published=True), corrects_prices=False
    ),
    METHOD: Learner(continuation_value, _METHOD),
    BEST: Learner(
        differential_value,
        differential_value.Config(n_pairs=512, n_evaluations=6, evaluation_devices=128),
    ),
}
WITHOUT_TWIN = f"{METHOD}, no twin"
PRICES, CONTROL = "price rule", "predictive control"
THRESHOLD = "threshold exit"  # where the confidence of an exit head is observed
KNOWING, EXACT = "clairvoyant", "exact optimum"
# One knows the future, the other the law of the world.
NOT_DEPLOYABLE = frozenset({KNOWING, EXACT})
# What needs no learning, besides those that are tuned on the training draw.
BASELINES: dict[str, Callable[[Stopping], Policy]] = {
    "one-time greedy": baselines.one_time_greedy,
    "one-time waiting": baselines.one_time_waiting,
    "adaptive waiting": baselines.adaptive_waiting,
    "neurosurgeon": baselines.neurosurgeon,
    "device only": lambda env: baselines.fixed(env.n_layers + 1),
    "edge only": lambda env: baselines.fixed(0),
    "random": lambda env: baselines.random_choice(),
    KNOWING: baselines.clairvoyant,
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What baselines take from the training draw."""

    fixed: int  # the best fixed choice
    # Confidence from which it is best to settle for the exit head's answer; None where it is not
    # observed.
    threshold: float | None
    prices: Prices


def baseline_policies(env: Stopping, chosen: Chosen) -> dict[str, Policy]:
    """Returns the policies that need no learning, by name."""
    policies = {name: build(env) for name, build in BASELINES.items()}
    policies["best fixed point"] = baselines.fixed(chosen.fixed)
    policies[PRICES] = price_rule.policy(env, chosen.prices)
    policies[CONTROL] = predictive_control.policy(env, chosen.prices.tasks_per_s)
    if chosen.threshold is not None:
        policies[THRESHOLD] = baselines.threshold_exit(env, chosen.threshold)
    return policies


def choose(env: Stopping, params: Params, key: jax.Array, n_tasks: int = 512) -> Chosen:
    """Returns what gives the most utility over the first n_tasks tasks of every row of the training
    draw, and the prices found there; consumes the key.
    """
    prices = price_rule.tune(key, params, env=env)
    choices = jnp.arange(env.n_choices, dtype=jnp.int32)
    fixed = int(
        np.argmax(
            _mean_utility(env, params, lambda state, params, choice: choice, choices, n_tasks)
        )
    )
    if params.samples is None:
        return Chosen(fixed, None, prices)
    # From the lowest confidence on; the ends, always settle and never, are other policies.
    thresholds = params.samples.edges

    def settle(state: State, params: Params, threshold: jax.Array) -> jax.Array:
        samples: Any = params.samples  # there are some, as above
        sure = stopping_samples.record(samples, state.row, state.task)[-1] >= threshold
        return jnp.where(sure, env.n_layers + 1, env.n_layers)

    utility = _mean_utility(env, params, settle, thresholds, n_tasks)
    return Chosen(fixed, float(thresholds[np.argmax(utility)]), prices)


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
