"""How episodes of `multi-user` begin: a bank of starts, which is all its randomness.

Axes: K rows, U users.
"""

import jax
import jax.numpy as jnp
from flax import struct


class InitialStates(struct.PyTreeNode):
    """Starts of episodes."""

    distance_m: jax.Array  # float32 [K, U], to the receiver
    tasks: jax.Array  # int32 [K, U], that a user has to finish
    split: jax.Array  # int32 [K, U], of the first task
    channel: jax.Array  # int32 [K, U], of the first task

    @property
    def n_rows(self) -> int:
        """How many starts there are."""
        return self.distance_m.shape[0]


def alike(n_users: int, distance_m: float, tasks: int, split: int) -> InitialStates:
    """Returns one start, all users alike on channel 0: the authors' test has 50 m, 200 tasks and
    the last split.
    """
    shape = (1, n_users)
    return InitialStates(
        distance_m=jnp.full(shape, distance_m, jnp.float32),
        tasks=jnp.full(shape, tasks, jnp.int32),
        split=jnp.full(shape, split, jnp.int32),
        channel=jnp.zeros(shape, jnp.int32),
    )
