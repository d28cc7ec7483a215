"""Radio links: what they carry, and time on air."""

import jax
import jax.numpy as jnp

_NO_RATE_BPS = 1e-20  # dividing by it exceeds any limit, and fits a float32


def upload_s(bits: jax.Array, rate_bps: jax.Array, longest_s: jax.Array) -> jax.Array:
    """Returns the seconds of an upload at one rate, `min(bits / rate_bps, longest_s)`; a dead link
    takes longest_s.

    Nothing to send takes no time, also over a dead link. Any common shape.
    """
    return jnp.minimum(bits / jnp.maximum(rate_bps, _NO_RATE_BPS), longest_s)


def snr_db(distance_m: jax.Array, at_100_m_db: float, exponent: float) -> jax.Array:
    """Returns the mean signal-to-noise ratio `at_100_m_db - 10 exponent log10(distance_m / 100)`,
    dB; any shape.
    """
    return at_100_m_db - (10.0 * exponent) * jnp.log10(distance_m / 100.0)


def spectral_efficiency(snr: jax.Array, least: float, most: float) -> jax.Array:
    """Returns `log2(1 + snr)` in bit/s/Hz (Shannon), between the least and the most the modulations
    carry.
    """
    return jnp.clip(jnp.log2(1.0 + snr), least, most)
