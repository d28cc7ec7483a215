"""Everything random about a fleet, as arrays: links, tasks, processors, and what others leave of
link and server.

Axes: K rows, T slots, D devices.
"""

import jax
from flax import struct


class FleetBank(struct.PyTreeNode):
    """K rows of T+1 slots; slot T is only looked at.

    efficiency [K, T+1, D] float32: bit/s/Hz of a device's link. weight [K, T+1, D] float32: of
    latency in the cost of its task, 0 to 1. speed [K, T+1, D] float32: of its processor, 1 =
    nominal. active [K, T+1, D] bool: has it a task. kind [K, D] int32: what machine it is.
    bandwidth, server [K, T+1] float32: the share of each that others leave.
    """

    efficiency: jax.Array
    weight: jax.Array
    speed: jax.Array
    active: jax.Array
    kind: jax.Array
    bandwidth: jax.Array
    server: jax.Array

    @property
    def n_rows(self) -> int:
        return self.active.shape[0]

    @property
    def n_slots(self) -> int:
        return self.active.shape[1] - 1


class FleetSlot(struct.PyTreeNode):
    """One slot of a bank: fields as there, [D]; bandwidth and server are scalars."""

    efficiency: jax.Array
    weight: jax.Array
    speed: jax.Array
    active: jax.Array
    kind: jax.Array
    bandwidth: jax.Array
    server: jax.Array


def slot_at(bank: FleetBank, row: jax.Array, slot: jax.Array) -> FleetSlot:
    """Returns `slot` of `row`; both int32 and inside the bank."""
    at = {
        name: leaf.at[row, slot].get(mode="promise_in_bounds")
        for name, leaf in _by_slot(bank).items()
    }
    return FleetSlot(kind=bank.kind.at[row].get(mode="promise_in_bounds"), **at)


def _by_slot(bank: FleetBank) -> dict[str, jax.Array]:
    return {name: leaf for name, leaf in vars(bank).items() if name != "kind"}
