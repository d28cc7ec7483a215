"""The contract of every environment: what it has, what it returns.

An environment is a frozen, hashable dataclass that holds what decides shapes. Its numbers are in
`params`, its randomness in `params.bank`, recorded or drawn beforehand. All functions are pure and
for one environment; `jax.vmap` makes many.
"""

# JAX's own signatures are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct


class Outcome(struct.PyTreeNode):
    """How one task ended; the numbers mean something only where `finished`."""

    finished: jax.Array  # bool
    choice: jax.Array  # int32, what was decided
    latency_s: jax.Array  # from arrival to result
    energy_j: jax.Array  # of the device
    accuracy: jax.Array  # in [0, 1]
    utility: jax.Array  # the objective of the system
    # int32, messages in which the device reported its progress while the task ran; commands back to
    # it are not counted.
    reports: jax.Array


class TimeStep(struct.PyTreeNode):
    """What a step returns. The observation is always the one before any reset."""

    observation: jax.Array  # float32 [F], or [D, F] of several devices
    reward: jax.Array  # float32
    terminated: jax.Array  # bool: the world ended, nothing follows
    truncated: jax.Array  # bool: the record ended, the world would go on: bootstrap
    outcome: Any  # an `Outcome`, or a record of its own where a step finishes several tasks


class Env(Protocol):
    """What all callers of an environment use.

    `params` have a `bank` with `n_rows`, and with `n_slots` where rows have slots; `state` has
    `done`, and `row` and `slot` where there are such. A state that is done stays as it is, and its
    steps pay nothing: `step` does not reset.
    """

    @property
    def n_actions(self) -> int:
        """Actions of a decision, [A] in masks; of each device where several decide."""
        ...

    @property
    def n_choices(self) -> int:
        """What `Outcome.choice` may be."""
        ...

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of `TimeStep.observation`."""
        ...

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts at a random place of the bank, O(1); consumes the key."""
        ...

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts at `slot` of `row`, int32."""
        ...

    def step(self, state: Any, action: Any, params: Any) -> tuple[Any, TimeStep]:
        """Takes an action; needs no key, as all that is random is in the bank."""
        ...

    def mask(self, state: Any, params: Any) -> Any:
        """Returns which actions are valid, bool, in the structure of an action."""
        ...

    def visible(self, state: Any, params: Any) -> tuple[Any, Any]:
        """Returns state and params as policies receive them: what only the world knows is None."""
        ...


@dataclass(frozen=True)
class Wrapper:
    """An environment around another, `env`: what it does not define itself is that of `env`."""

    env: Any  # an `Env`, perhaps with more

    @property
    def n_actions(self) -> int:
        """Actions of a decision."""
        return self.env.n_actions

    @property
    def n_choices(self) -> int:
        """What `Outcome.choice` may be."""
        return self.env.n_choices

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation."""
        return self.env.observation_shape

    def mask(self, state: Any, params: Any) -> Any:
        """Returns which actions are valid, as `env` does."""
        return self.env.mask(state, params)

    def visible(self, state: Any, params: Any) -> tuple[Any, Any]:
        """Returns state and params as policies receive them."""
        return self.env.visible(state, params)

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts as `env` does; consumes the key."""
        return self.env.reset(key, params)

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts at a slot of a row, as `env` does."""
        return self.env.reset_at(row, slot, params)

    def step(self, state: Any, action: Any, params: Any) -> tuple[Any, TimeStep]:
        """Steps as `env` does."""
        return self.env.step(state, action, params)


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """Returns the leaves of `new` where the condition holds, else those of `old`.

    condition bool [...]; leaves [..., *rest]: its axes are the first ones of every leaf.
    """

    def leaf(one: jax.Array, other: jax.Array) -> jax.Array:
        trailing = (1,) * (jnp.ndim(one) - jnp.ndim(condition))
        return jnp.where(jnp.reshape(condition, jnp.shape(condition) + trailing), one, other)

    return jax.tree.map(leaf, new, old)
