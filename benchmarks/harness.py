"""What the loops that are timed share."""

import jax
import jax.numpy as jnp

# Steps per turn of a loop that is timed: every other step then need not copy what it carries.
UNROLL = 2


def coins(seeds: jax.Array) -> jax.Array:
    """Returns one step of a 32-bit linear congruential generator, uint32: cheap actions, whose high
    bits are good.
    """
    return seeds * jnp.uint32(1664525) + jnp.uint32(1013904223)
