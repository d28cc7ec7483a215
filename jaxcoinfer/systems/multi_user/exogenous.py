"""How episodes of `multi-user` begin: a bank of starts, all its randomness. Axes: K rows, U users."""

import jax
import jax.numpy as jnp
from flax import struct


class InitialStates(struct.PyTreeNode):
    """Starts of episodes, [K, U]: distance_m to the receiver; tasks, and split and channel of the
    first one, int32.
    """

    distance_m: jax.Array
    tasks: jax.Array
    split: jax.Array
    channel: jax.Array

    @property
    def n_rows(self) -> int:
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
