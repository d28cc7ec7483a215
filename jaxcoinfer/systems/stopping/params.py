"""The numbers of a `stopping` system: the record, and the one function that builds it.

Axes: K rows, T slots, L = Le device layers, P = L+1 stopping points with an upload, P+1 = L+2
choices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from jaxcoinfer.core.checks import (
    Numbers,
    require_finite,
    require_least,
    require_shape,
    require_shares,
)
from jaxcoinfer.physics.compute import SLOT_TOLERANCE
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.exogenous import SPEED_ONE, Bank
from jaxcoinfer.systems.stopping.samples import Samples


class Params(struct.PyTreeNode):
    """The numbers of a `stopping` system, float32 unless said otherwise; build with
    `make_params`. The utility of a task is `alpha acc - T - beta E`.
    """

    slot_s: jax.Array  # seconds of a slot
    layer_s: jax.Array  # [L+1], nominal seconds of layers 1..Le, then of the exit head
    upload_bits: jax.Array  # int32 [P], bits sent when stopping at l = 0..Le
    server_s: jax.Array  # [P], seconds e_l of the remaining layers on the server
    # [P+1], joules the device computes away when stopping at l; last: finished on the device.
    device_energy_j: jax.Array
    transmit_w: jax.Array  # of the radio while it sends
    transmit_j_per_bit: jax.Array  # of the radio, on top of that
    rtt_s: jax.Array  # seconds there and back, on top of those of the bits of an upload
    accuracy: jax.Array  # [P+1], of each choice
    accuracy_weight: jax.Array  # alpha, seconds
    energy_weight: jax.Array  # beta, seconds per joule
    bank: Bank  # the exogenous processes, with these uploads
    last_upload: jax.Array  # int32 [K], last slot at which any upload still ends within the row
    longest_local_slots: jax.Array  # int32, slots of all layers and the head at the slowest speed
    # Bits a slot at which sending the largest upload takes as long as computing all layers: the
    # scale of rates.
    typical_bits: jax.Array
    # Results image by image, where there are any; `accuracy` is then what is expected of an image
    # of which nothing is known yet.
    samples: Samples | None


def make_params(
    bank: Bank,
    slot_bits: jax.Array,
    *,
    slot_s: float,
    layer_s: ArrayLike,
    upload_bits: ArrayLike,
    server_s: ArrayLike,
    device_energy_j: ArrayLike,
    accuracy: ArrayLike,
    transmit_w: float,
    transmit_j_per_bit: float = 0.0,
    rtt_s: float = 0.0,
    accuracy_weight: float = 1.0,
    energy_weight: float = 1.0,
    samples: Samples | None = None,
) -> Params:
    """Builds the numbers of a `stopping` system: checks and casts each once, and derives those
    that follow.

    bank and slot_bits [K, T] come from the same draw; the rest as in `Params`. Raises ValueError in
    one line.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("bank", "slot_bits", "samples")}
    numbers = {name: np.asarray(value, np.float64) for name, value in arguments.items()}
    _check(numbers)
    _check_records(bank, slot_bits)
    _check_samples(samples, len(numbers["accuracy"]))
    sizes = jnp.asarray(np.round(numbers.pop("upload_bits")), jnp.int32)
    table = exogenous.upload_table(slot_bits, sizes)
    slowest = float(bank.slots[:, :, exogenous.SPEED].min()) / SPEED_ONE
    local = int(np.ceil(numbers["layer_s"] / (slowest * slot_s) - SLOT_TOLERANCE).sum())
    last_upload = _last_upload(bank, table, slot_s, local)
    local_s = float(numbers["layer_s"].sum())
    typical_bits = max(1.0, int(sizes.max()) * slot_s / local_s)
    return Params(
        **{name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()},
        upload_bits=sizes,
        bank=exogenous.with_uploads(bank, table),
        last_upload=last_upload.astype(jnp.int32),
        longest_local_slots=jnp.asarray(local, jnp.int32),
        typical_bits=jnp.asarray(typical_bits, jnp.float32),
        samples=samples,
    )


def _last_upload(bank: Bank, table: jax.Array, slot_s: float, local: int) -> jax.Array:
    """Last slot of each row, [K] int32, at which any upload of `table` [K, T+1, P] still ends
    within it.

    Raises ValueError where a task of `local` slots on the device does not fit before it.
    """
    slots = jnp.arange(bank.n_slots + 1, dtype=jnp.int32)[None]
    last_upload = jnp.where((slots + table.max(axis=-1)) <= bank.n_slots, slots, -1).max(axis=1)
    short = int(jnp.argmin(last_upload))
    if int(last_upload[short]) < local:
        raise ValueError(
            f"row {short} of the bank ({bank.n_slots} slots of {slot_s} s) is too short: its last "
            f"possible upload begins at slot {int(last_upload[short])}, and a task takes up to "
            f"{local} slots on the device. Use longer rows or a faster link."
        )
    return last_upload


def _check(numbers: Numbers) -> None:
    if numbers["layer_s"].ndim != 1:
        shape = numbers["layer_s"].shape
        raise ValueError(f"layer_s: shape {shape}; must be one number a layer, then the head's.")
    n_points = numbers["layer_s"].shape[0]
    lengths = {"layer_s": n_points, "upload_bits": n_points, "server_s": n_points}
    lengths |= {"device_energy_j": n_points + 1, "accuracy": n_points + 1}
    for name, value in numbers.items():
        wanted = (lengths[name],) if name in lengths else ()
        require_shape(name, value, wanted, f" for {n_points - 1} layers and an exit")
        require_finite(name, value)
    require_shares("accuracy", numbers["accuracy"], whole=True)
    if numbers["slot_s"] <= 0 or np.any(numbers["layer_s"][:-1] <= 0):
        raise ValueError("slot_s and the seconds of every layer must be above 0.")
    if np.any(numbers["upload_bits"] >= 2**31):
        raise ValueError(f"upload_bits: {numbers['upload_bits']}; allowed: below 2**31.")


def _check_samples(samples: Samples | None, n_choices: int) -> None:
    if samples is not None and samples.records.shape[1] != n_choices + 1:
        n_numbers = samples.records.shape[1]
        raise ValueError(
            f"samples: {n_numbers} numbers an image; must be {n_choices + 1}: choices, confidence."
        )


def _check_records(bank: Bank, slot_bits: jax.Array) -> None:
    require_shape("slot_bits", slot_bits, (bank.n_rows, bank.n_slots), ", as the bank's")
    require_least("slot_bits", int(slot_bits.min()), 0)
    slowest = int(bank.slots[:, :, exogenous.SPEED].min()) / SPEED_ONE
    require_least("speed", slowest, 0, above=True, where=" of the bank")
    n_tasks, room = int(bank.slots[:, -1, exogenous.ARRIVED].max()), bank.arrival_slot.shape[1]
    if n_tasks > room:
        raise ValueError(
            f"arrivals: {n_tasks} tasks in a row of {bank.n_slots} slots; allowed: {room}. Use "
            "shorter slots."
        )
