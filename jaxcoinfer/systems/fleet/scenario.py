"""Scenarios of the system `fleet`: many devices, one link, one server. Read by
`jaxcoinfer.systems.stopping.scenario`; no jax.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxcoinfer.data import profiles
from jaxcoinfer.data.fields import (
    Check,
    Place,
    checked,
    identifier,
    integer,
    many,
    number,
    record,
    sources,
    text,
)


def _range(low: float, high: float, *, above: bool = False) -> Check:
    def check(value: Any, place: Place) -> tuple:
        pair = many(number(low, high, above=above))(value, place)
        if len(pair) != 2 or pair[0] > pair[1]:
            place.refuse(value, "a list of two numbers, the lesser first")
        return pair

    return check


def _shares_of_kinds(value: Any, place: Place) -> tuple:
    kinds = many(record(DeviceType), 1)(value, place)
    total = sum(kind.share for kind in kinds)
    if abs(total - 1.0) > 1e-6:
        place.refuse(f"kinds with shares of {total:g}", "kinds whose shares sum to 1")
    return kinds


def _only(name: str) -> Check:
    def check(value: Any, place: Place) -> str:
        if value != name:
            place.refuse(value, f"'{name}'")
        return value

    return check


@dataclasses.dataclass(frozen=True)
class DeviceType:
    """A machine of which about the share `share` of the devices are."""

    device: str = checked(text)
    share: float = checked(number(0.0, 1.0, above=True))


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Devices have tasks by turns; a task cares for latency with the probability `latency_share`,
    else for accuracy.

    leave: probabilities a slot to stop and to begin having tasks. latency_weights,
    accuracy_weights: ranges of w.
    """

    leave: tuple[float, ...] = checked(many(number(0.0, 1.0, above=True), 2))
    latency_share: float = checked(number(0.0, 1.0))
    latency_weights: tuple[float, ...] = checked(_range(0.0, 1.0))
    accuracy_weights: tuple[float, ...] = checked(_range(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Radio:
    """One uplink band of which every device is given a share, at a power that grows with it
    (constant a hertz).

    Devices walk in a square of half_side_m around the base station, which none comes nearer than
    nearest_m; speed_mps is the deviation of each velocity component and velocity_memory its
    Gauss-Markov memory from slot to slot. The signal falls with distance^path_loss; fading_memory
    is that of Rayleigh fading. efficiency: range, bit/s/Hz.
    """

    bandwidth_hz: float = checked(number(above=True))
    half_side_m: float = checked(number(above=True))
    nearest_m: float = checked(number(above=True))
    speed_mps: float = checked(number())
    velocity_memory: float = checked(number(0.0, 1.0))
    snr_at_100_m_db: float = checked(number(-100.0, 100.0))
    path_loss: float = checked(number(0.0, 10.0))
    fading_memory: float = checked(number(0.0, 1.0))
    efficiency: tuple[float, ...] = checked(_range(0.0, 20.0, above=True))


@dataclasses.dataclass(frozen=True)
class GaussMarkov:
    """A Gauss-Markov process around `mean`, kept within `within`."""

    mean: float = checked(number(above=True))
    deviation: float = checked(number())
    memory: float = checked(number(0.0, 1.0))
    within: tuple[float, ...] = checked(_range(0.0, 10.0, above=True))


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A machine behind the edge server that is never busy, over a line of backhaul_bps and rtt_s to
    each task.
    """

    server: str = checked(text)
    backhaul_bps: float = checked(number(above=True))
    rtt_s: float = checked(number())


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetScenario:
    """One fleet in one world: rows × slots of it are drawn at a time.

    Cost of a task: `(1 - w) (1 - accuracy) + w latency_s / reference_s`. cap_s: what a latency
    counts at most where shares are chosen freely. bandwidth, capacity: shares of link and server
    that others leave; speed: of each device. bits: in which an element of a feature is sent, one of
    the DNN's, 32 as it is.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(_only("fleet"))
    slot_s: float = checked(number(above=True))
    rows: int = checked(integer(1, 1 << 16))
    slots: int = checked(integer(1, 1 << 20))
    devices: int = checked(integer(1, 1 << 16))
    reference_s: float = checked(number(above=True))
    cap_s: float = checked(number(above=True))
    dnn: str = checked(text)
    server: str = checked(text)
    link: str = checked(text)
    bits: int = checked(integer(1, 32), default=profiles.BITS_AN_ELEMENT)
    kinds: tuple[DeviceType, ...] = checked(_shares_of_kinds)
    tasks: Tasks = checked(record(Tasks))
    radio: Radio = checked(record(Radio))
    speed: GaussMarkov = checked(record(GaussMarkov))
    bandwidth: GaussMarkov = checked(record(GaussMarkov))
    capacity: GaussMarkov = checked(record(GaussMarkov))
    cloud: Cloud | None = checked(record(Cloud), default=None)
    source: tuple[tuple[str, str], ...] = checked(sources)


def fleet_numbers(scenario: FleetScenario) -> dict[str, Any]:
    """Returns what `jaxcoinfer.systems.fleet.params.make_params` wants to know about a fleet, by
    name.

    Versions are those of the DNN, cuts those its profile allows, the input first and the whole
    network on the device last.
    """
    dnn, link = profiles.load_dnn(scenario.dnn), profiles.load_link(scenario.link)
    server = profiles.load_server(scenario.server)
    versions = [profiles.version(dnn, width) for width in profiles.widths(dnn)]
    last = len(dnn.layers)
    cuts = [0, *(i for i, layer in enumerate(dnn.layers, 1) if layer.cut and i < last), last]
    devices = [profiles.load_device(kind.device) for kind in scenario.kinds]
    sent = np.array([profiles.cut_bits(thin, scenario.bits) for thin in versions])
    sent[:, -1] = 0.0  # the result stays where it is wanted
    numbers = {
        "device_s": [
            [_sums(profiles.layer_seconds(device, thin))[cuts] for thin in versions]
            for device in devices
        ],
        "device_energy_j": [
            [profiles.cumulative_energy_j(device, thin)[cuts] for thin in versions]
            for device in devices
        ],
        "work_flop": [_sums([layer.flop for layer in thin.layers])[cuts] for thin in versions],
        "upload_bits": np.round(sent[:, cuts]),
        "overhead_s": _sums([layer.kernels * server.overhead_s for layer in dnn.layers])[cuts],
        "accuracy": [profiles.cut_accuracy(thin, scenario.bits)[cuts] for thin in versions],
        "bandwidth_hz": scenario.radio.bandwidth_hz,
        "server_flops": server.peak_flops,
        "rtt_s": link.rtt_s,
        "transmit_w": link.transmit_w,
        "transmit_j_per_bit": link.transmit_j_per_bit,
        "reference_s": scenario.reference_s,
        "cap_s": scenario.cap_s,
    }
    if scenario.cloud is not None:
        cloud = profiles.load_server(scenario.cloud.server)
        numbers |= {
            "cloud_flops": cloud.peak_flops,
            "cloud_overhead_s": _sums([layer.kernels * cloud.overhead_s for layer in dnn.layers])[
                cuts
            ],
            "cloud_rtt_s": scenario.cloud.rtt_s,
            "backhaul_bps": scenario.cloud.backhaul_bps,
        }
    return numbers


def _sums(values: ArrayLike) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values)])
