"""Energy of the device."""

import jax


def transmit_energy_j(air_s: jax.Array, power_w: jax.Array, bits: jax.Array, j_per_bit: jax.Array) -> jax.Array:
    """Returns the joules of an upload, `power_w air_s + j_per_bit bits`; any common shape."""
    return power_w * air_s + j_per_bit * bits
