"""Training in stages, each some updates and an evaluation: all in one scan, or one by one.

A learner says what one update and one evaluation are, as a `TrainingLoop`. `train` runs all stages
at once. A run that must outlive its process starts with `init`, goes on by `advance`, and can be
stored between two stages: a `TrainState` is all that the rest depends on, and stage i takes its key
by its number, so it does not matter when and how often the run was interrupted.
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
    """What one learner does in each stage; its state is all that changes while it learns."""

    # key -> (learner state, test, key): every evaluation begins with test, the key is of the stages
    init: Callable[[jax.Array], tuple[Any, Any, jax.Array]]
    # (learner state, key) -> learner state
    update: Callable[[Any, jax.Array], Any]
    # (learner state, test) -> mean utility per task, or reward per step
    evaluate: Callable[[Any, Any], jax.Array]
    weights: Callable[[Any], Any]  # learner state -> weights of its policy
    n_stages: int  # each ends with an evaluation
    n_updates: int  # per stage
    n_steps: int  # tasks, or environment steps, per update

    @property
    def steps(self) -> jax.Array:
        """Tasks, or environment steps, up to each evaluation [n_stages], int32."""
        return jnp.arange(1, self.n_stages + 1) * (self.n_updates * self.n_steps)

    def stage(self, learner_state: Any, test: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the state after n_updates, and its evaluation; consumes the key."""
        learner_state, _ = jax.lax.scan(
            lambda learner_state, key: (self.update(learner_state, key), None),
            learner_state,
            jax.random.split(key, self.n_updates),
        )
        return learner_state, self.evaluate(learner_state, test)


# (params, hyper) -> training loop: a learner's `training_loop` with its shapes filled in
LoopBuilder = Callable[[Any, Any], TrainingLoop]


class TrainState(struct.PyTreeNode):
    """A training between two stages."""

    learner_state: Any  # as in `TrainingLoop`
    test: Any  # as in `TrainingLoop`
    key: jax.Array  # of all stages
    stage: jax.Array  # int32, how many are done
    curve: jax.Array  # float32 [n_stages], result of each evaluation; 0 for those to come


def run(key: jax.Array, training_loop: TrainingLoop) -> tuple[Any, jax.Array]:
    """Returns the learner state after all stages, and their evaluations [n_stages]; consumes the
    key.
    """
    learner_state, test, key = training_loop.init(key)
    return jax.lax.scan(
        lambda learner_state, key: training_loop.stage(learner_state, test, key),
        learner_state,
        jax.random.split(key, training_loop.n_stages),
    )


def train(key: jax.Array, training_loop: TrainingLoop) -> TrainResult:
    """Returns the result of all stages, run in one scan; consumes the key."""
    learner_state, curve = run(key, training_loop)
    return TrainResult(training_loop.weights(learner_state), curve, training_loop.steps)


@partial(jax.jit, static_argnames="build_loop")
def init(key: jax.Array, params: Any, hyper: Any, *, build_loop: LoopBuilder) -> TrainState:
    """Returns a training before its first stage; consumes the key."""
    training_loop = build_loop(params, hyper)
    learner_state, test, key = training_loop.init(key)
    curve = jnp.zeros((training_loop.n_stages,))
    return TrainState(learner_state, test, key, jnp.int32(0), curve)


@partial(jax.jit, static_argnames="build_loop")
def advance(
    train_state: TrainState, params: Any, hyper: Any, *, build_loop: LoopBuilder
) -> TrainState:
    """Returns the training one stage later; at least one stage must be left."""
    training_loop = build_loop(params, hyper)
    key = jax.random.split(train_state.key, training_loop.n_stages)[train_state.stage]
    learner_state, score = training_loop.stage(train_state.learner_state, train_state.test, key)
    curve = train_state.curve.at[train_state.stage].set(score)
    return train_state.replace(
        learner_state=learner_state, stage=train_state.stage + 1, curve=curve
    )
