"""Five worlds whose values are known: what a learner that is right learns in seconds.

0: nothing to see, one step, reward 1. 1: one step, reward what is seen, ±1. 2: two steps, reward 1
at the end. In these only action 0 is valid. 3: nothing to see, reward 1 for action 1, else -1. 4:
reward 1 for the action that fits what is seen, else -1. The world is a number in `params`, so that
all five train under one `vmap`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep

N_WORLDS = 5
DISCOUNT = 0.9


class World(struct.PyTreeNode):
    which: jax.Array


class State(struct.PyTreeNode):
    sign: jax.Array
    t: jax.Array
    done: jax.Array


def worlds() -> World:
    return World(jnp.arange(N_WORLDS, dtype=jnp.int32))


def reward(which, sign, t, action):
    fits = jnp.where((action == 1) == (sign > 0), 1.0, -1.0)
    one = jnp.where(action == 1, 1.0, -1.0)
    return jnp.stack([jnp.ones_like(sign), sign, t.astype(jnp.float32), one, fits])[which]


@dataclass(frozen=True)
class Probe:
    n_actions = 2
    observation_shape = (2,)

    def mask(self, state, params):
        return jnp.stack([jnp.ones((), bool), params.which >= 3])

    def reset(self, key, params):
        state = State(
            jax.random.rademacher(key, (), jnp.float32), jnp.int32(0), jnp.zeros((), bool)
        )
        return state, self._timestep(state, jnp.float32(0.0), jnp.zeros((), bool), params)

    def step(self, state, action, params):
        last = jnp.where(params.which == 2, 1, 0)
        earned = jnp.where(state.done, 0.0, reward(params.which, state.sign, state.t, action))
        done = state.done | (state.t == last)
        new = State(state.sign, state.t + 1, done)
        return new, self._timestep(new, earned, done, params)

    def _timestep(self, state, earned, done, params):
        shown = jnp.where((params.which == 1) | (params.which == 4), state.sign, 0.0)
        zero, count = jnp.float32(0.0), jnp.int32(0)
        outcome = Outcome(done, count, zero, zero, zero, zero, count)
        observation = jnp.stack([shown, state.t.astype(jnp.float32)])
        return TimeStep(observation, earned, done, jnp.zeros((), bool), outcome)


def outcomes(env, state, action, params):
    return jnp.stack([reward(params.which, state.sign, state.t, jnp.int32(a)) for a in range(2)])


# World, what is seen, and the value of acting well from there.
VALUES = [
    (0, [0.0, 0.0], 1.0),
    (1, [1.0, 0.0], 1.0),
    (1, [-1.0, 0.0], -1.0),
    (2, [0.0, 0.0], DISCOUNT),
    (2, [0.0, 1.0], 1.0),
    (3, [0.0, 0.0], 1.0),
    (4, [1.0, 0.0], 1.0),
    (4, [-1.0, 0.0], 1.0),
]
# World, what is seen, the right action.
ACTIONS = [(0, [0.0, 0.0], 0), (3, [0.0, 0.0], 1), (4, [1.0, 0.0], 1), (4, [-1.0, 0.0], 0)]
