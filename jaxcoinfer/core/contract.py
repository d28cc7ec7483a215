"""What every environment returns.

An environment is a frozen, hashable dataclass that holds what decides shapes. Its numbers are in
`params`, its randomness in a bank of them. It has

    reset(key, params) -> (state, TimeStep)
    step(state, action, params) -> (state, TimeStep)
    mask(state, params) -> which actions are valid, bool

all pure, for one environment; `jax.vmap` makes many. `step` does not reset: an environment that has
ended stays as it is and pays nothing, and the observation is always the one before any reset.
"""

from typing import Any

import jax
from flax import struct


class Outcome(struct.PyTreeNode):
    """How one task ended; numbers mean something only where `finished`.

    finished bool; choice int32, what was decided; latency_s, from arrival to result, seconds;
    energy_j, of the device, joules; accuracy in [0, 1]; utility, the objective of the system;
    reports int32, messages in which the device told where it stands while the task ran (commands
    back to it are not counted).
    """

    finished: jax.Array
    choice: jax.Array
    latency_s: jax.Array
    energy_j: jax.Array
    accuracy: jax.Array
    utility: jax.Array
    reports: jax.Array


class TimeStep(struct.PyTreeNode):
    """What a step shows: observation [F] float32, reward float32, how it ended, and the task that
    ended in it.

    terminated: the world ended, nothing follows. truncated: the record ended, the world would go
    on: bootstrap from the observation. outcome: an `Outcome`, or a record of its own where several
    tasks of a user may end in a step.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    outcome: Any
