"""Faces that other ecosystems expect of an environment. Nothing of theirs is imported before it is asked for.

`Gymnax` is gymnax 1.x (six values, resets by itself); `GymnaxFive` the older five values, which rejax and purejaxrl
unpack. Both are thin: the transition is the environment's own, and its `params` are passed through. A face resets after
every step that ends, which costs a draw of random numbers a step; `jaxcoinfer.rollout` does not. Trainers that know one
`done` flag take a record's end for the world's, which biases what they learn of the last steps.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


def _spaces() -> Any:
    """gymnax's own space records, which trainers test with `isinstance`."""
    return importlib.import_module("gymnax.environments.spaces")


@dataclass(frozen=True)
class Gymnax:
    """`env` as a gymnax 1.x environment: `reset(key, params)`, `step(key, state, action, params)`.

    A state is (state, time step). params: of `jaxcoinfer.make`, and not optional, as they hold the world.
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
        return timestep.observation, (state, timestep)

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Returns (observation, state, reward, terminated, truncated, info), after a reset where one of them holds.

        info: `final_observation`, the one before the reset. The key is for the reset.
        """
        stepped = self.env.step(state[0], jnp.asarray(action, jnp.int32), params)
        over = stepped[1].terminated | stepped[1].truncated
        fresh = self.env.reset(key, params)
        begun = jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, stepped)
        info = {"final_observation": stepped[1].observation}
        flags = (stepped[1].terminated, stepped[1].truncated)
        return begun[1].observation, begun, stepped[1].reward, *flags, info


@dataclass(frozen=True)
class GymnaxFive(Gymnax):
    """As `Gymnax`, with one flag `done` for both ends: (observation, state, reward, done, info)."""

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[Any, ...]:
        """Returns (observation, state, reward, done, info); info tells the ends apart."""
        observation, state, reward, terminated, truncated, info = Gymnax.step(self, key, state, action, params)
        info |= {"terminated": terminated, "truncated": truncated}
        return observation, state, reward, terminated | truncated, info
