"""Radio links: what they carry, and time on air."""

import jax
import jax.numpy as jnp

_NO_RATE_BPS = 1e-20  # dividing by it exceeds any limit, and fits a float32
_SHARE_OF_MEAN = 1e-3  # of the mean rate, the least that `positive_rate` returns


def upload_s(bits: jax.Array, rate_bps: jax.Array, longest_s: jax.Array) -> jax.Array:
    """Returns the seconds of an upload at one rate, `min(bits / rate_bps, longest_s)`; a dead link
    takes longest_s.

    Nothing to send takes no time, also over a dead link. Any common shape.
    """
    return jnp.minimum(bits / jnp.maximum(rate_bps, _NO_RATE_BPS), longest_s)


def positive_rate(rate: jax.Array, mean_rate: jax.Array) -> jax.Array:
    """Returns `max(rate, mean_rate / 1000)`: what is sent over a dead link takes long, not for
    ever. One unit for both, any common shape.
    """
    return jnp.maximum(rate, _SHARE_OF_MEAN * mean_rate)


def snr(
    power_w: jax.Array, distance_m: jax.Array, path_loss: jax.Array, noise_w: jax.Array
) -> jax.Array:
    """Returns the signal-to-noise ratio `power_w distance_m^-path_loss / noise_w`; any common
    shape.
    """
    return power_w * distance_m**-path_loss / noise_w


def from_db(ratio_db: jax.Array) -> jax.Array:
    """Returns the ratio `10^(ratio_db / 10)`; any shape."""
    return 10.0 ** (ratio_db / 10.0)


def snr_db(distance_m: jax.Array, at_100_m_db: float, exponent: float) -> jax.Array:
    """Returns the mean signal-to-noise ratio `at_100_m_db - 10 exponent log10(distance_m / 100)`,
    dB; any shape.
    """
    return at_100_m_db - (10.0 * exponent) * jnp.log10(distance_m / 100.0)


def spectral_efficiency(ratio: jax.Array, lowest: float, highest: float) -> jax.Array:
    """Returns `log2(1 + ratio)` in bit/s/Hz (Shannon), between the lowest and the highest that the
    modulations carry; ratio: signal to noise, any shape.
    """
    return jnp.clip(jnp.log2(1.0 + ratio), lowest, highest)
