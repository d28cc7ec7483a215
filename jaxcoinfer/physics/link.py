"""Time on air."""

import jax
import jax.numpy as jnp

_NO_RATE_BPS = 1e-20  # dividing by it exceeds any limit, and fits a float32


def upload_s(bits: jax.Array, rate_bps: jax.Array, longest_s: jax.Array) -> jax.Array:
    """Returns the seconds of an upload at one rate, `min(bits / rate_bps, longest_s)`; a dead link takes longest_s.

    Nothing to send takes no time, also over a dead link. Any common shape.
    """
    return jnp.minimum(bits / jnp.maximum(rate_bps, _NO_RATE_BPS), longest_s)
