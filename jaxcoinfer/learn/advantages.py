"""What steps of a policy were worth: generalised advantages, and rewards centred by task.

Schulman et al. (arXiv 1506.02438). Axes: T steps, N environments.
"""

from typing import Any

import jax
import jax.numpy as jnp


def advantages(
    rewards: jax.Array,
    values: jax.Array,
    not_terminated: jax.Array,
    ended: jax.Array,
    discount: Any,
    gae_lambda: Any,
) -> jax.Array:
    """Returns generalised advantages G [T, ...]; values V [T+1, ...], all else [T, ...].

        G_t     = delta_t + gamma lambda (1 - ended_t) G_{t+1}
        delta_t = r_t + gamma not_terminated_t V_{t+1} - V_t

    Where only the record ended, V stands for what follows.
    """
    deltas = rewards + discount * not_terminated * values[1:] - values[:-1]

    def back(ahead: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, over = step
        here = delta + discount * gae_lambda * (1.0 - over) * ahead
        return here, here

    return jax.lax.scan(back, jnp.zeros_like(deltas[0]), (deltas, ended), reverse=True)[1]


def centred_rewards(rewards: jax.Array, utility: jax.Array, finished: jax.Array) -> jax.Array:
    """Returns rewards less g for each task that finished, `r - finished g`, with g the mean utility
    of all that did; all float32 of one shape, `finished` 1 or 0.

    How many tasks come is not for a policy to decide, so the ranking of policies stays, and a
    discount, which counts decisions, no longer favours whoever takes few of them.
    """
    mean = (finished * utility).sum() / jnp.maximum(finished.sum(), 1.0)
    return rewards - finished * mean
