"""Memory of the past: an environment whose observation is the last n observations.

Where the world is seen late or in part (how long has the link been out?), the past says more than
the present.
"""

# JAX's own signatures are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxcoinfer.core.contract import TimeStep, Wrapper


class Remembered(struct.PyTreeNode):
    """State of an environment with memory."""

    state: Any  # of the environment
    past: jax.Array  # [n, F]: its last n observations, the latest first

    done = property(lambda self: self.state.done)


@dataclass(frozen=True)
class Stacked(Wrapper):
    """`env` with its last n observations as one, [n F]; before there are n, the first one fills in
    for those missing.
    """

    n: int  # observations

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (self.n * self.env.observation_shape[0],)

    def mask(self, state: Remembered, params: Any) -> jax.Array:
        """Returns which actions are valid, bool [A]."""
        return self.env.mask(state.state, params)

    def visible(self, state: Remembered, params: Any) -> tuple[Remembered, Any]:
        """Returns state and params as policies receive them; the past is the device's own."""
        inner, known = self.env.visible(state.state, params)
        return state.replace(state=inner), known

    def reset(self, key: jax.Array, params: Any) -> tuple[Remembered, TimeStep]:
        """Starts as `env` does; consumes the key."""
        return self._first(*self.env.reset(key, params))

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Any) -> tuple[Remembered, TimeStep]:
        """Starts at a slot of a row, as `env` does."""
        return self._first(*self.env.reset_at(row, slot, params))

    def step(
        self, state: Remembered, action: jax.Array, params: Any
    ) -> tuple[Remembered, TimeStep]:
        """Steps `env`; drops the oldest observation."""
        inner, timestep = self.env.step(state.state, action, params)
        longer = jnp.concatenate([timestep.observation[None], state.past[:-1]])
        past = jnp.where(state.state.done, state.past, longer)
        return Remembered(inner, past), timestep.replace(observation=past.reshape(-1))

    def _first(self, state: Any, timestep: TimeStep) -> tuple[Remembered, TimeStep]:
        past = jnp.broadcast_to(timestep.observation, (self.n, *timestep.observation.shape))
        return Remembered(state, past), timestep.replace(observation=past.reshape(-1))
