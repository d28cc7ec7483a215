"""Everything random or recorded of `on-demand`, as arrays: link rate, device speed, edge speed,
deadline class.

Axes: K rows, T slots.
"""

import jax
import jax.numpy as jnp
from flax import struct

# Columns of `Bank.slots`: all of a slot lies together, so that a step reads one place in memory.
RATE, DEVICE_SPEED, EDGE_SPEED, CLASS = range(4)


class Draw(struct.PyTreeNode):
    """One realisation, [K, T] each: rate_bps float32, bit/s; device_speed, edge_speed float32, 1 =
    nominal; task_class int32, index of the deadline class of the slot's task.
    """

    rate_bps: jax.Array
    device_speed: jax.Array
    edge_speed: jax.Array
    task_class: jax.Array


class Slot(struct.PyTreeNode):
    """The bank's record of one slot, [..., 4] float32; columns as in `Bank.slots`."""

    record: jax.Array

    rate_bps = property(lambda self: self.record[..., RATE])
    device_speed = property(lambda self: self.record[..., DEVICE_SPEED])
    edge_speed = property(lambda self: self.record[..., EDGE_SPEED])
    task_class = property(lambda self: self.record[..., CLASS].astype(jnp.int32))


class Bank(struct.PyTreeNode):
    """A draw as records: slots [K, T+1, 4] float32, columns RATE, DEVICE_SPEED, EDGE_SPEED and
    CLASS (whole numbers, exact). The last record repeats the one before it: an observation after
    the last task shows no future.
    """

    slots: jax.Array

    @property
    def n_rows(self) -> int:
        return self.slots.shape[0]

    @property
    def n_slots(self) -> int:
        return self.slots.shape[1] - 1


def make_bank(draw: Draw) -> Bank:
    """Returns the records of a draw."""
    columns = [
        draw.rate_bps,
        draw.device_speed,
        draw.edge_speed,
        draw.task_class.astype(jnp.float32),
    ]
    slots = jnp.stack(columns, axis=-1)
    return Bank(jnp.concatenate([slots, slots[:, -1:]], axis=1))


def slot_at(bank: Bank, row: jax.Array, slot: jax.Array) -> Slot:
    """Returns the record of `slot` in `row`; both int32 and inside the bank."""
    return Slot(bank.slots.at[row, slot].get(mode="promise_in_bounds"))
