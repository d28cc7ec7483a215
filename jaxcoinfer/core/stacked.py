"""Memory of the past: an environment whose observation is the last n observations.

Where the world shows itself late or in part (how long has the link been out?), the past says more
than the present.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import TimeStep


class Remembered(struct.PyTreeNode):
    """state of the environment; past [n, F]: its last n observations, the latest first."""

    state: Any
    past: jax.Array


@dataclass(frozen=True)
class Stacked:
    """`env` with the observation [n F] of its last n; before there are n, the first one stands for
    those that lack.
    """

    env: Any
    n: int

    @property
    def n_actions(self) -> int:
        return self.env.n_actions

    @property
    def n_choices(self) -> int:
        return self.env.n_choices

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (self.n * self.env.observation_shape[0],)

    def mask(self, state: Remembered, params: Any) -> jax.Array:
        """Returns which actions are valid, bool [A]."""
        return self.env.mask(state.state, params)

    def reset(self, key: jax.Array, params: Any) -> tuple[Remembered, TimeStep]:
        """Starts as `env` does; consumes the key."""
        return self._first(*self.env.reset(key, params))

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Any) -> tuple[Remembered, TimeStep]:
        """Starts at a slot of a row, as `env` does."""
        return self._first(*self.env.reset_at(row, slot, params))

    def step(
        self, state: Remembered, action: jax.Array, params: Any
    ) -> tuple[Remembered, TimeStep]:
        """Steps `env`; the oldest observation is forgotten."""
        inner, timestep = self.env.step(state.state, action, params)
        longer = jnp.concatenate([timestep.observation[None], state.past[:-1]])
        past = jnp.where(state.state.done, state.past, longer)
        return Remembered(inner, past), timestep.replace(observation=past.reshape(-1))

    def _first(self, state: Any, timestep: TimeStep) -> tuple[Remembered, TimeStep]:
        past = jnp.broadcast_to(timestep.observation, (self.n, *timestep.observation.shape))
        return Remembered(state, past), timestep.replace(observation=past.reshape(-1))
