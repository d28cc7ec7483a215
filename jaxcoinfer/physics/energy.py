"""Energy of the device."""

from typing import TypeVar

import jax
import numpy as np

Numbers = TypeVar("Numbers", jax.Array, np.ndarray)


def transmit_energy_j(
    air_s: Numbers, power_w: Numbers, bits: Numbers, j_per_bit: Numbers
) -> Numbers:
    """Returns the joules of an upload, `power_w air_s + j_per_bit bits`; any common shape, of JAX
    or NumPy.
    """
    return power_w * air_s + j_per_bit * bits
