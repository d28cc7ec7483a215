"""Everything random or recorded in `on-demand`, as arrays: link rate, device speed, edge speed and
deadline class.

Axes: K rows, T slots.
"""

import jax
import jax.numpy as jnp
from flax import struct

# Columns of `Bank.slots`: all of a slot lies together, so that a step reads one place in memory.
RATE, DEVICE_SPEED, EDGE_SPEED, CLASS, OBSERVED_RATE = range(5)


class Draw(struct.PyTreeNode):
    """One realisation of everything that varies, [K, T] each."""

    rate_bps: jax.Array  # float32, bit/s
    observed_bps: jax.Array  # float32, bit/s, the rate as the device knows it when a slot begins
    device_speed: jax.Array  # float32, 1 = nominal
    edge_speed: jax.Array  # float32, 1 = nominal
    task_class: jax.Array  # int32, index of the deadline class of the slot's task


class Slot(struct.PyTreeNode):
    """The bank's record of one slot."""

    record: jax.Array  # [..., 5] float32, columns as in `Bank.slots`

    rate_bps = property(lambda self: self.record[..., RATE])
    observed_bps = property(lambda self: self.record[..., OBSERVED_RATE])
    device_speed = property(lambda self: self.record[..., DEVICE_SPEED])
    edge_speed = property(lambda self: self.record[..., EDGE_SPEED])
    task_class = property(lambda self: self.record[..., CLASS].astype(jnp.int32))


class Bank(struct.PyTreeNode):
    """A draw as records.

    The last record of a row repeats the one before it, so that the observation after the last task
    shows no future.
    """

    # [K, T+1, 5] float32; columns RATE, DEVICE_SPEED, EDGE_SPEED, CLASS (whole numbers, exact) and
    # OBSERVED_RATE
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
        draw.observed_bps,
    ]
    slots = jnp.stack(columns, axis=-1)
    return Bank(jnp.concatenate([slots, slots[:, -1:]], axis=1))


def slot_at(bank: Bank, row: jax.Array, slot: jax.Array) -> Slot:
    """Returns the record of `slot` in `row`; both int32 and inside the bank."""
    return Slot(bank.slots.at[row, slot].get(mode="promise_in_bounds"))


def seen_at(now: Slot, delayed: Slot) -> Slot:
    """Returns what a device knows in the slot `now`, given the one whose speeds it knows: those,
    and the rate as it was last measured.
    """
    return Slot(delayed.record.at[..., RATE].set(now.observed_bps))
