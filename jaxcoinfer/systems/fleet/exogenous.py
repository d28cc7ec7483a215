"""Everything random about a fleet, as arrays: links, tasks, processors, and what other users leave
of the link and the server.

Axes: K rows, T slots, D devices.
"""

import jax
from flax import struct


class FleetBank(struct.PyTreeNode):
    """K rows of T+1 slots; slot T is only observed, never played."""

    efficiency: jax.Array  # float32 [K, T+1, D], bit/s/Hz of a device's link
    weight: jax.Array  # float32 [K, T+1, D], of latency in the cost of the task, 0 to 1
    speed: jax.Array  # float32 [K, T+1, D], of a device's processor, 1 = nominal
    active: jax.Array  # bool [K, T+1, D], whether a device has a task
    kind: jax.Array  # int32 [K, D], which kind of machine a device is
    bandwidth: jax.Array  # float32 [K, T+1], share of the link that others leave
    server: jax.Array  # float32 [K, T+1], share of the server that others leave

    @property
    def n_rows(self) -> int:
        return self.active.shape[0]

    @property
    def n_slots(self) -> int:
        return self.active.shape[1] - 1


class FleetSlot(struct.PyTreeNode):
    """One slot of a bank; units as there."""

    efficiency: jax.Array  # float32 [D]
    weight: jax.Array  # float32 [D]
    speed: jax.Array  # float32 [D]
    active: jax.Array  # bool [D]
    kind: jax.Array  # int32 [D]
    bandwidth: jax.Array  # float32, scalar
    server: jax.Array  # float32, scalar


def seen_at(now: FleetSlot, delayed: FleetSlot) -> FleetSlot:
    """Returns what is known in the slot `now`: its tasks; links, speeds and what others leave as
    they were in the slot `delayed`.
    """
    return now.replace(
        efficiency=delayed.efficiency,
        speed=delayed.speed,
        bandwidth=delayed.bandwidth,
        server=delayed.server,
    )


def slot_at(bank: FleetBank, row: jax.Array, slot: jax.Array) -> FleetSlot:
    """Returns `slot` of `row`; both int32 and inside the bank."""
    by_slot = {name: leaf for name, leaf in vars(bank).items() if name != "kind"}
    current = {
        name: leaf.at[row, slot].get(mode="promise_in_bounds") for name, leaf in by_slot.items()
    }
    return FleetSlot(kind=bank.kind.at[row].get(mode="promise_in_bounds"), **current)
