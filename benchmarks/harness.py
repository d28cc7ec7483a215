"""What the loops that are timed share."""

import jax
import jax.numpy as jnp


def unroll() -> int:
    """Steps per turn of a loop that is timed: but for the last of them, none has to copy what it
    carries.

    Two on a CPU, where more is slower; four on a GPU, where copies cost as much as the step.
    """
    return 2 if jax.default_backend() == "cpu" else 4


def coins(seeds: jax.Array) -> jax.Array:
    """Returns one step of a 32-bit linear congruential generator, uint32: cheap actions, whose high
    bits are good.
    """
    return seeds * jnp.uint32(1664525) + jnp.uint32(1013904223)
