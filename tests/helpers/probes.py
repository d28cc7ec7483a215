"""Five worlds whose values are known, which a correct learner learns in seconds.

    0: nothing to see, one step, reward 1
    1: one step, the reward is what is seen, ±1
    2: two steps, reward 1 at the end
    3: nothing to see, reward 1 for action 1, else -1
    4: reward 1 for the action that fits what is seen, else -1

In 0 to 2 only action 0 is valid. The world is a number in `params`, so that all five train under
one `vmap`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import Outcome, TimeStep

N_WORLDS = 5
DISCOUNT = 0.9


class World(struct.PyTreeNode):
    which: jax.Array  # int32, 0 to 4


class State(struct.PyTreeNode):
    sign: jax.Array  # float32, -1 or 1
    t: jax.Array  # int32, steps so far
    done: jax.Array  # bool


def worlds() -> World:
    return World(jnp.arange(N_WORLDS, dtype=jnp.int32))


def reward(which: jax.Array, sign: jax.Array, t: jax.Array, action: jax.Array) -> jax.Array:
    fits = jnp.where((action == 1) == (sign > 0), 1.0, -1.0)
    one = jnp.where(action == 1, 1.0, -1.0)
    return jnp.stack([jnp.ones_like(sign), sign, t.astype(jnp.float32), one, fits])[which]


@dataclass(frozen=True)
class Probe:
    n_actions = 2
    observation_shape = (2,)

    def mask(self, state: State, params: World) -> jax.Array:
        return jnp.stack([jnp.ones((), bool), params.which >= 3])

    def visible(self, state: State, params: World) -> tuple[State, World]:
        return state, params

    def reset(self, key: jax.Array, params: World) -> tuple[State, TimeStep]:
        state = State(
            jax.random.rademacher(key, (), jnp.float32), jnp.int32(0), jnp.zeros((), bool)
        )
        return state, self._timestep(state, jnp.float32(0.0), jnp.zeros((), bool), params)

    def step(self, state: State, action: jax.Array, params: World) -> tuple[State, TimeStep]:
        last = jnp.where(params.which == 2, 1, 0)
        earned = jnp.where(state.done, 0.0, reward(params.which, state.sign, state.t, action))
        done = state.done | (state.t == last)
        new = State(state.sign, state.t + 1, done)
        return new, self._timestep(new, earned, done, params)

    def _timestep(
        self, state: State, reward: jax.Array, done: jax.Array, params: World
    ) -> TimeStep:
        shown = jnp.where((params.which == 1) | (params.which == 4), state.sign, 0.0)
        zero, count = jnp.float32(0.0), jnp.int32(0)
        outcome = Outcome(done, count, zero, zero, zero, zero, count)
        observation = jnp.stack([shown, state.t.astype(jnp.float32)])
        return TimeStep(observation, reward, done, jnp.zeros((), bool), outcome)


def outcomes(env: Probe, state: State, action: jax.Array, params: World) -> jax.Array:
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
