"""Where one device of `stopping` stands: what it knows, and apart from that what only the world
knows.
"""

import jax
from flax import struct

from jaxcoinfer.systems.stopping.exogenous import Slot


class Hidden(struct.PyTreeNode):
    """What only the world knows of a device: where it is recorded, and how what it has sent ends.
    Scalars.
    """

    row: jax.Array  # int32, row of the bank
    last_upload: jax.Array  # int32, last slot of the row at which any upload still fits
    radio_free: jax.Array  # int32, slot at which the radio has sent all that was handed to it
    radio_level: jax.Array  # int32, count of `Slot.bits_sum` at which its uploads are through
    excess_s: jax.Array  # float32, seconds of own work on the server once all of it is there
    excess_idle: jax.Array  # int32, idle ticks of the server at that time
    # float32, as excess_s, with work counted from the moment it is handed to the radio
    counted_s: jax.Array
    counted_idle: jax.Array  # int32, likewise the idle ticks


class Observed(struct.PyTreeNode):
    """What a device reads off its surroundings in one slot; scalars."""

    now: Slot  # the bank's record of the slot
    unsent_bits: jax.Array  # int32, that the radio still has to send
    radio_busy: jax.Array  # bool
    own_backlog_s: jax.Array  # float32, seconds of own work at the server


class State(struct.PyTreeNode):
    """Where one device stands at a decision; scalars. All but `hidden` the device knows."""

    slot: jax.Array  # int32, t_l
    layer: jax.Array  # int32, l
    task: jax.Array  # int32, n
    arrival: jax.Array  # int32, slot a_n
    start: jax.Array  # int32, slot s_n
    done: jax.Array  # bool
    observed: Observed  # in slot t_l
    at_start: Observed  # in slot s_n
    confidence: jax.Array  # float32, of the exit head, largest class probability; 0 until it ran
    hidden: Hidden  # None in what a policy receives

    now = property(lambda self: self.observed.now)
    row = property(lambda self: self.hidden.row)


def begun(state: State) -> State:
    """Returns what the device knew when the task in hand began.

    Its queue apart, nothing that it decides changes while a task runs, so a policy without memory
    can decide again as it did then.
    """
    return state.replace(
        slot=state.start,
        layer=state.layer * 0,
        observed=state.at_start,
        confidence=state.confidence * 0.0,
    )
