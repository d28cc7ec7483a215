"""gymnax: `Gymnax` is an environment of gymnax 1.x (six values, resets by itself), `GymnaxFive` one
of the older five values, which rejax and purejaxrl unpack.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.adapters.extras import needed
from jaxcoinfer.adapters.restarts import restarted
from jaxcoinfer.core.contract import Env


def _spaces() -> Any:
    """gymnax's own space records, which trainers test with `isinstance`."""
    return needed("gymnax.environments.spaces", "bench")


@dataclass(frozen=True)
class Gymnax:
    """`env` as a gymnax 1.x environment: `reset(key, params)`, `step(key, state, action, params)`.

    The state is that of `env`. params: of `jaxcoinfer.make`, and not optional, as they hold the
    world.
    """

    env: Env

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @property
    def num_actions(self) -> int:
        return self.env.n_actions

    @property
    def default_params(self) -> None:
        """None: params hold the world, so there are no defaults."""

    def action_space(self, params: Any = None) -> Any:
        """Returns gymnax's `Discrete` of all actions, valid or not."""
        return _spaces().Discrete(self.env.n_actions)

    def observation_space(self, params: Any = None) -> Any:
        """Returns gymnax's `Box` from 0 to 1, in which every observation lies."""
        return _spaces().Box(0.0, 1.0, self.env.observation_shape)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        """Returns (observation, state); consumes the key."""
        state, timestep = self.env.reset(key, params)
        return timestep.observation, state

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Returns (observation, state, reward, terminated, truncated, info); after an end the first
        two are those of a reset.

        info: `final_observation`, the one before the reset. The key is for the reset. Under
        `jax.vmap` only those that are done are reset (`restarts`).
        """
        state, timestep = self.env.step(state, jnp.asarray(action, jnp.int32), params)
        state, observation = restarted(self.env, key, state, timestep, params)
        info = {"final_observation": timestep.observation}
        return observation, state, timestep.reward, timestep.terminated, timestep.truncated, info


@dataclass(frozen=True)
class GymnaxFive(Gymnax):
    """As `Gymnax`, with one flag `done` for both ends: (observation, state, reward, done, info)."""

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Returns (observation, state, reward, done, info); info says which end it was."""
        observation, state, reward, terminated, truncated, info = Gymnax.step(
            self, key, state, action, params
        )
        info |= {"terminated": terminated, "truncated": truncated}
        return observation, state, reward, terminated | truncated, info
