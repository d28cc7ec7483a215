"""gymnax: `Gymnax` is gymnax 1.x (six values, resets by itself); `GymnaxFive` the older five
values, which rejax and purejaxrl unpack.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.adapters.extras import needed
from jaxcoinfer.adapters.restarts import restarted


def _spaces() -> Any:
    """gymnax's own space records, which trainers test with `isinstance`."""
    return needed("gymnax.environments.spaces", "bench")


@dataclass(frozen=True)
class Gymnax:
    """`env` as a gymnax 1.x environment: `reset(key, params)`, `step(key, state, action, params)`.

    A state is the environment's. params: of `jaxcoinfer.make`, and not optional, as they hold the
    world.
    """

    env: Any

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @property
    def num_actions(self) -> int:
        return self.env.n_actions

    @property
    def default_params(self) -> None:
        """There are none: the world is in them."""

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
        """Returns (observation, state, reward, terminated, truncated, info), as `reset` gives them
        after an end.

        info: `final_observation`, the one before the reset. The key is for the reset. Under
        `jax.vmap` only those that have ended are reset (`restarts`).
        """
        state, timestep = self.env.step(state, jnp.asarray(action, jnp.int32), params)
        begun, observation = restarted(self.env, key, state, timestep, params)
        info = {"final_observation": timestep.observation}
        return observation, begun, timestep.reward, timestep.terminated, timestep.truncated, info


@dataclass(frozen=True)
class GymnaxFive(Gymnax):
    """As `Gymnax`, with one flag `done` for both ends: (observation, state, reward, done, info)."""

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Returns (observation, state, reward, done, info); info tells the ends apart."""
        observation, state, reward, terminated, truncated, info = Gymnax.step(
            self, key, state, action, params
        )
        info |= {"terminated": terminated, "truncated": truncated}
        return observation, state, reward, terminated | truncated, info
