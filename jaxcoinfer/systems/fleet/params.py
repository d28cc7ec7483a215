"""The numbers of a `fleet`: the record, and the one function that builds it.

Axes: D devices, N kinds of machine, V model versions, P cuts (0 sends the input, P-1 sends
nothing), C choices: version, cut and, with a cloud, second cut, in this order, the last running
fastest.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from jaxcoinfer.core.checks import (
    Numbers,
    require_finite,
    require_index,
    require_range,
    require_running_sum,
    require_shape,
    require_shares,
)
from jaxcoinfer.systems.fleet.exogenous import FleetBank


class FleetParams(struct.PyTreeNode):
    """The numbers of a fleet, float32 unless said otherwise; build with `make_params`."""

    device_s: jax.Array  # [N, C], seconds a kind of machine computes at nominal speed
    device_energy_j: jax.Array  # [N, C], joules it computes away
    # [C], seconds that no share changes: round trips, the server's overheads, the line to the
    # cloud and the cloud.
    fixed_s: jax.Array
    upload_bits: jax.Array  # [C], bits the device sends
    server_flop: jax.Array  # [C], work of the server
    accuracy: jax.Array  # [C], in [0, 1]
    valid: jax.Array  # bool [C], whether the second cut is not before the first
    bandwidth_hz: jax.Array  # of the whole link
    server_flops: jax.Array  # flop per second of the whole server
    transmit_w: jax.Array  # of a radio while it sends
    transmit_j_per_bit: jax.Array  # of a radio, on top of that
    reference_s: jax.Array  # the latency that costs as much as all accuracy
    # What a latency counts at most where shares are chosen freely, and where a device gets nothing
    # of what it needs, seconds.
    cap_s: jax.Array
    delay_slots: jax.Array  # int32, 0 or 1: how late links, speeds and what others leave are known
    bank: FleetBank  # the exogenous processes


_SHAPES = {
    "device_s": "NVP",
    "device_energy_j": "NVP",
    "work_flop": "VP",
    "upload_bits": "VP",
    "overhead_s": "P",
    "accuracy": "VP",
    "cloud_overhead_s": "P",
}
_POSITIVE = ("bandwidth_hz", "server_flops", "reference_s", "cap_s", "cloud_flops", "backhaul_bps")
_CLOUD = ("cloud_flops", "cloud_overhead_s", "cloud_rtt_s", "backhaul_bps")


def make_params(
    bank: FleetBank,
    *,
    device_s: ArrayLike,
    device_energy_j: ArrayLike,
    work_flop: ArrayLike,
    upload_bits: ArrayLike,
    overhead_s: ArrayLike,
    accuracy: ArrayLike,
    bandwidth_hz: float,
    server_flops: float,
    reference_s: float,
    cap_s: float,
    rtt_s: float = 0.0,
    transmit_w: float = 0.0,
    transmit_j_per_bit: float = 0.0,
    cloud_flops: float | None = None,
    cloud_overhead_s: ArrayLike | None = None,
    cloud_rtt_s: float | None = None,
    backhaul_bps: float | None = None,
    delay_slots: int = 0,
) -> FleetParams:
    """Builds the numbers of a fleet: checks and casts each once, and derives those that follow.

    Up to each cut: device_s, device_energy_j [N, V, P], work_flop [V, P] and the server's
    overhead_s [P], running sums. upload_bits, accuracy [V, P]: of a cut, no bits at the last. All
    four numbers of a cloud or none: cloud_overhead_s [P] as overhead_s. Raises ValueError with the
    name, the value and what is allowed.
    """
    arguments = {
        name: value
        for name, value in locals().items()
        if name not in ("bank", "delay_slots") and value is not None
    }
    numbers = {name: np.asarray(value, np.float64) for name, value in arguments.items()}
    if delay_slots not in (0, 1):
        raise ValueError(f"delay_slots: {delay_slots}; allowed: 0 (known at once) or 1.")
    _check(numbers)
    _check_bank(bank, numbers)
    whole = (
        "bandwidth_hz",
        "server_flops",
        "transmit_w",
        "transmit_j_per_bit",
        "reference_s",
        "cap_s",
    )
    tables = choice_tables(numbers)
    valid = tables.pop("valid")
    return FleetParams(
        **{name: jnp.asarray(value, jnp.float32) for name, value in tables.items()},
        **{name: jnp.asarray(numbers[name], jnp.float32) for name in whole},
        valid=jnp.asarray(valid),
        delay_slots=jnp.asarray(delay_slots, jnp.int32),
        bank=bank,
    )


def choice_tables(numbers: Numbers) -> dict[str, Any]:
    """Returns what `FleetParams` holds by choice, [C] or [N, C], from the sums up to each cut."""
    _, n_versions, n_cuts = numbers["device_s"].shape
    last = n_cuts - 1
    seconds = np.arange(n_cuts) if "backhaul_bps" in numbers else np.array([last])
    version, cut, second = (
        x.ravel() for x in np.meshgrid(range(n_versions), range(n_cuts), seconds, indexing="ij")
    )
    flop, overhead_s = numbers["work_flop"], numbers["overhead_s"]
    until = np.maximum(
        second, cut
    )  # a second cut before the first is not valid; it must only have numbers
    fixed_s = np.where(cut < last, numbers["rtt_s"] + overhead_s[until] - overhead_s[cut], 0.0)
    if "backhaul_bps" in numbers:
        rest_s = (flop[version, last] - flop[version, until]) / numbers["cloud_flops"]
        line_s = (
            numbers["cloud_rtt_s"]
            + numbers["upload_bits"][version, until] / numbers["backhaul_bps"]
        )
        overheads_s = numbers["cloud_overhead_s"][last] - numbers["cloud_overhead_s"][until]
        fixed_s = fixed_s + np.where(until < last, line_s + rest_s + overheads_s, 0.0)
    return {
        "device_s": numbers["device_s"][:, version, cut],
        "device_energy_j": numbers["device_energy_j"][:, version, cut],
        "fixed_s": fixed_s,
        "upload_bits": numbers["upload_bits"][version, cut],
        "server_flop": flop[version, until] - flop[version, cut],
        "accuracy": numbers["accuracy"][version, cut],
        "valid": second >= cut,
    }


def _check(numbers: Numbers) -> None:
    if (
        numbers["device_s"].ndim != 3
        or 0 in numbers["device_s"].shape
        or numbers["device_s"].shape[2] < 2
    ):
        shape = numbers["device_s"].shape
        raise ValueError(
            f"device_s: shape {shape}; must be (kinds, versions, cuts) with at least 1, 1 and 2."
        )
    sizes = dict(zip("NVP", numbers["device_s"].shape, strict=True))
    for name, value in numbers.items():
        wanted = tuple(sizes[axis] for axis in _SHAPES.get(name, ""))
        require_shape(name, value, wanted, f", as device_s has {sizes}")
        require_finite(name, value, above=name in _POSITIVE)
    for name in ("device_s", "work_flop", "overhead_s", "cloud_overhead_s"):
        if name in numbers:
            require_running_sum(name, numbers[name])
    require_shares("accuracy", numbers["accuracy"], whole=True)
    if np.any(numbers["upload_bits"][:, -1] != 0):
        last = numbers["upload_bits"][:, -1]
        raise ValueError(f"upload_bits: {last} at the last cut; allowed: 0, nothing is sent.")
    missing = [name for name in _CLOUD if name not in numbers]
    if 0 < len(missing) < len(_CLOUD):
        raise ValueError(
            f"a cloud without {', '.join(missing)}; give all of {', '.join(_CLOUD)}, or none."
        )


def _check_bank(bank: FleetBank, numbers: Numbers) -> None:
    k, t, d = bank.active.shape
    of_devices = {name: getattr(bank, name) for name in ("efficiency", "weight", "speed", "active")}
    of_all = {name: getattr(bank, name) for name in ("bandwidth", "server")}
    wanted = dict.fromkeys(of_devices, (k, t, d)) | dict.fromkeys(of_all, (k, t)) | {"kind": (k, d)}
    for name, shape in wanted.items():
        require_shape(f"bank.{name}", getattr(bank, name), shape, ", as bank.active")
    if t < 2:
        raise ValueError(
            f"bank: {t} slots a row; a row has at least one slot and the one after it."
        )
    for name in ("efficiency", "speed", "bandwidth", "server"):
        value = getattr(bank, name)
        require_range(f"bank.{name}", value, 0.0, np.inf, "finite and above 0", above=True)
    require_range("bank.weight", bank.weight, 0.0, 1.0, "0 to 1")
    require_index("bank.kind", bank.kind, numbers["device_s"].shape[0], "kinds")
    # What makes the bound of `jaxcoinfer.systems.fleet.bound` hold for capped latencies too: see
    # `Fleet`.
    slowest_s = float(numbers["device_s"][:, :, -1].max()) / float(bank.speed.min())
    if numbers["cap_s"] < slowest_s:
        raise ValueError(
            f"cap_s: {numbers['cap_s']} s; must be at least {slowest_s:.6g} s, which a whole "
            "network takes on the slowest device: else giving up would pay."
        )
