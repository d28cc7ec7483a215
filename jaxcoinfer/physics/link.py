"""Radio links."""

import jax
import jax.numpy as jnp


def snr_db(distance_m: jax.Array, at_100_m_db: float, exponent: float) -> jax.Array:
    """Returns the mean signal-to-noise ratio `at_100_m_db - 10 exponent log10(distance_m / 100)`, dB; any shape."""
    return at_100_m_db - (10.0 * exponent) * jnp.log10(distance_m / 100.0)


def spectral_efficiency(snr: jax.Array, least: float, most: float) -> jax.Array:
    """Returns `log2(1 + snr)` in bit/s/Hz (Shannon), between the least and the most the modulations carry."""
    return jnp.clip(jnp.log2(1.0 + snr), least, most)
