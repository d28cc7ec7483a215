"""Where one device of `stopping` stands: the state of the environment."""

import jax
from flax import struct

from jaxcoinfer.systems.stopping.exogenous import Slot


class State(struct.PyTreeNode):
    """Where one device stands at a decision; scalars.

    The last three fields are what the device itself knows of its uploads under way.
    """

    row: jax.Array  # int32, row of the bank
    slot: jax.Array  # int32, t_l
    layer: jax.Array  # int32, l
    task: jax.Array  # int32, n
    arrival: jax.Array  # int32, slot a_n
    start: jax.Array  # int32, slot s_n
    radio_free: jax.Array  # int32, slot at which the radio has sent all that was handed to it
    excess_s: jax.Array  # float32, seconds of own work on the server once all of it is there
    excess_idle: jax.Array  # int32, idle ticks of the server at that time
    last_upload: jax.Array  # int32, last slot of the row at which any upload still fits
    done: jax.Array  # bool
    now: Slot  # the bank's record of slot t_l
    radio_level: jax.Array  # int32, count of `Slot.bits_sum` at which its uploads are through
    # float32, as excess_s, with work counted from the moment it is handed to the radio
    known_s: jax.Array
    known_idle: jax.Array  # int32, likewise the idle ticks
