"""Training in stages, each some updates and a look at what was learned: all in one scan, or one by one.

A learner says what one update and one look are, as a `Course`. `train` goes through all stages at once. A run that must
outlive its process goes from `begin` by `advance`, and can be kept between two stages: a `Standing` is all that the
rest depends on, and stage i takes its key by its number, so it does not matter when and how often it was put aside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.agents.networks import Learned


@dataclass(frozen=True)
class Course:
    """What is a learner's own; carry: all that changes while it learns.

    begin(key) -> (carry, test, key): test is what every look begins with, the key is that of the stages. update(carry,
    key) -> carry; look(carry, test) -> mean utility a task, or reward a step; weights(carry) -> those of the policy.
    n_stages: looks; n_updates: before each of them; n_steps: tasks, or environment steps, of an update.
    """

    begin: Callable[[jax.Array], tuple[Any, Any, jax.Array]]
    update: Callable[[Any, jax.Array], Any]
    look: Callable[[Any, Any], jax.Array]
    weights: Callable[[Any], Any]
    n_stages: int
    n_updates: int
    n_steps: int

    @property
    def steps(self) -> jax.Array:
        """Tasks, or environment steps, until each look [n_stages], int32."""
        return jnp.arange(1, self.n_stages + 1) * (self.n_updates * self.n_steps)

    def stage(self, carry: Any, test: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        """Returns the carry after n_updates, and what a look then tells; consumes the key."""
        carry, _ = jax.lax.scan(
            lambda carry, key: (self.update(carry, key), None), carry, jax.random.split(key, self.n_updates)
        )
        return carry, self.look(carry, test)


Outline = Callable[[Any, Any], Course]  # (params, hyper) -> course; a learner's `course` with shapes filled in


class Standing(struct.PyTreeNode):
    """Where a training stands: carry and test, as in `Course`; key of the stages; stage int32, how many are over; curve
    [n_stages]: what their looks told, zero for those to come."""

    carry: Any
    test: Any
    key: jax.Array
    stage: jax.Array
    curve: jax.Array


def run(key: jax.Array, course: Course) -> tuple[Any, jax.Array]:
    """Returns the carry after all stages, and what their looks told [n_stages]; consumes the key."""
    carry, test, key = course.begin(key)
    return jax.lax.scan(
        lambda carry, key: course.stage(carry, test, key), carry, jax.random.split(key, course.n_stages)
    )


def train(key: jax.Array, course: Course) -> Learned:
    """Returns what all stages come to, in one scan; consumes the key."""
    carry, curve = run(key, course)
    return Learned(course.weights(carry), curve, course.steps)


@partial(jax.jit, static_argnames="outline")
def begin(key: jax.Array, params: Any, hyper: Any, *, outline: Outline) -> Standing:
    """Returns where a training stands before its first stage; consumes the key."""
    course = outline(params, hyper)
    carry, test, key = course.begin(key)
    return Standing(carry, test, key, jnp.int32(0), jnp.zeros((course.n_stages,)))


@partial(jax.jit, static_argnames="outline")
def advance(standing: Standing, params: Any, hyper: Any, *, outline: Outline) -> Standing:
    """Returns where it stands one stage later, of which there must be one left."""
    course = outline(params, hyper)
    key = jax.random.split(standing.key, course.n_stages)[standing.stage]
    carry, score = course.stage(standing.carry, standing.test, key)
    curve = standing.curve.at[standing.stage].set(score)
    return standing.replace(carry=carry, stage=standing.stage + 1, curve=curve)
