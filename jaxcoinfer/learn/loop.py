"""Training in stages, each some updates and a look at what was learned: all in one scan, or one by
one.

A learner says what one update and one look are, as a `TrainingLoop`. `train` goes through all
stages at once. A run that must outlive its process goes from `init` by `advance`, and can be kept
between two stages: a `TrainState` is all that the rest depends on, and stage i takes its key by its
number, so it does not matter when and how often it was put aside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.learn.networks import TrainResult


@dataclass(frozen=True)
class TrainingLoop:
    """What is a learner's own; carry: all that changes while it learns.

    begin(key) -> (carry, test, key): test is what every look begins with, the key is that of the
    stages. update(carry, key) -> carry; look(carry, test) -> mean utility a task, or reward a step;
    weights(carry) -> those of the policy. n_stages: looks; n_updates: before each of them; n_steps:
    tasks, or environment steps, of an update.
    """

    init: Callable[[jax.Array], tuple[Any, Any, jax.Array]]
    update: Callable[[Any, jax.Array], Any]
    evaluate: Callable[[Any, Any], jax.Array]
    weights: Callable[[Any], Any]
    n_stages: int
    n_updates: int
    n_steps: int

    @property
    def steps(self) -> jax.Array:
        """Tasks, or environment steps, until each evaluate [n_stages], int32."""
        return jnp.arange(1, self.n_stages + 1) * (self.n_updates * self.n_steps)

    def stage(self, carry: Any, test: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry after n_updates, and what a look then tells; consumes the key."""
        carry, _ = jax.lax.scan(
            lambda carry, key: (self.update(carry, key), None),
            carry,
            jax.random.split(key, self.n_updates),
        )
        return carry, self.evaluate(carry, test)


LoopBuilder = Callable[
    [Any, Any], TrainingLoop
]  # (params, hyper) -> course; a learner's `training_loop` with shapes filled in


class TrainState(struct.PyTreeNode):
    """Where a training stands: carry and test, as in `TrainingLoop`; key of the stages; stage
    int32, how many are over; curve [n_stages]: what their looks told, zero for those to come.
    """

    carry: Any
    test: Any
    key: jax.Array
    stage: jax.Array
    curve: jax.Array


def run(key: jax.Array, training_loop: TrainingLoop) -> tuple[Any, jax.Array]:
    """Returns the carry after all stages, and what their looks told [n_stages]; consumes the key."""
    carry, test, key = training_loop.init(key)
    return jax.lax.scan(
        lambda carry, key: training_loop.stage(carry, test, key),
        carry,
        jax.random.split(key, training_loop.n_stages),
    )


def train(key: jax.Array, training_loop: TrainingLoop) -> TrainResult:
    """Returns what all stages come to, in one scan; consumes the key."""
    carry, curve = run(key, training_loop)
    return TrainResult(training_loop.weights(carry), curve, training_loop.steps)


@partial(jax.jit, static_argnames="outline")
def init(key: jax.Array, params: Any, hyper: Any, *, build_loop: LoopBuilder) -> TrainState:
    """Returns where a training stands before its first stage; consumes the key."""
    training_loop = build_loop(params, hyper)
    carry, test, key = training_loop.init(key)
    return TrainState(carry, test, key, jnp.int32(0), jnp.zeros((training_loop.n_stages,)))


@partial(jax.jit, static_argnames="outline")
def advance(
    train_state: TrainState, params: Any, hyper: Any, *, build_loop: LoopBuilder
) -> TrainState:
    """Returns where it stands one stage later, of which there must be one left."""
    training_loop = build_loop(params, hyper)
    key = jax.random.split(train_state.key, training_loop.n_stages)[train_state.stage]
    carry, score = training_loop.stage(train_state.carry, train_state.test, key)
    curve = train_state.curve.at[train_state.stage].set(score)
    return train_state.replace(carry=carry, stage=train_state.stage + 1, curve=curve)
