"""Scenarios of the system `fleet`: many devices, one link, one server. No JAX."""

import dataclasses
from typing import Any

import numpy as np

from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.fields import (
    Place,
    checked,
    identifier,
    integer,
    many,
    number,
    pair,
    record,
    sources,
    text,
    word,
)
from jaxcoinfer.data.processes import MAX_SLOTS


def _shares_of_kinds(value: Any, place: Place) -> tuple[Any, ...]:
    kinds = many(record(DeviceType), 1)(value, place)
    total = sum(kind.share for kind in kinds)
    if abs(total - 1.0) > 1e-6:
        place.refuse(f"kinds with shares of {total:g}", "kinds whose shares sum to 1")
    return kinds


@dataclasses.dataclass(frozen=True)
class DeviceType:
    """A machine that some of the devices are."""

    device: str = checked(text)  # name of its profile, or path
    share: float = checked(number(0.0, 1.0, above=True))  # of the devices, about


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What devices want. They have tasks by turns; w weighs latency against accuracy."""

    # Probabilities per slot to stop and to begin having tasks.
    leave: tuple[float, ...] = checked(many(number(0.0, 1.0, above=True), 2))
    latency_share: float = checked(number(0.0, 1.0))  # of the tasks: those that care for latency
    # Ranges of w, of the tasks that care for latency and of those that care for accuracy.
    latency_weights: tuple[float, ...] = checked(pair(number(0.0, 1.0), rising=True))
    accuracy_weights: tuple[float, ...] = checked(pair(number(0.0, 1.0), rising=True))


@dataclasses.dataclass(frozen=True)
class Radio:
    """One uplink band of which every device gets a share, at the same power per hertz.

    Devices walk in a square around the base station.
    """

    bandwidth_hz: float = checked(number(above=True))  # of the band
    half_side_m: float = checked(number(above=True))  # of the square
    nearest_m: float = checked(number(above=True))  # no device comes nearer to the base station
    speed_mps: float = checked(number())  # standard deviation of each velocity component
    velocity_memory: float = checked(number(0.0, 1.0))  # Gauss-Markov, from slot to slot
    snr_at_100_m_db: float = checked(number(-100.0, 100.0))
    path_loss: float = checked(number(0.0, 10.0))  # the signal falls with distance^path_loss
    fading_memory: float = checked(number(0.0, 1.0))  # of Rayleigh fading, from slot to slot
    # Range of the spectral efficiency, bit/s/Hz.
    efficiency: tuple[float, ...] = checked(pair(number(0.0, 20.0, above=True), rising=True))


@dataclasses.dataclass(frozen=True)
class GaussMarkov:
    """A Gauss-Markov process kept within a range."""

    mean: float = checked(number(above=True))
    deviation: float = checked(number())  # standard
    memory: float = checked(number(0.0, 1.0))  # from slot to slot
    # The range, lower end first.
    within: tuple[float, ...] = checked(pair(number(0.0, 10.0, above=True), rising=True))


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A machine behind the edge server that is never busy, with a line of its own for each task."""

    server: str = checked(text)  # name of its profile, or path
    backhaul_bps: float = checked(number(above=True))  # of the line
    rtt_s: float = checked(number())  # of the line, round trip, seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetScenario:
    """One fleet in one world: rows × slots of it are drawn at a time.

    Cost of a task: `(1 - w) (1 - accuracy) + w latency_s / reference_s`.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("fleet"))
    slot_s: float = checked(number(above=True))  # seconds of a slot
    rows: int = checked(integer(1, 1 << 16))
    slots: int = checked(integer(1, MAX_SLOTS))
    devices: int = checked(integer(1, 1 << 16))
    reference_s: float = checked(number(above=True))
    # What a latency counts at most where shares are chosen freely, seconds.
    cap_s: float = checked(number(above=True))
    dnn: str = checked(text)  # name of its profile, or path; likewise server and link
    server: str = checked(text)
    link: str = checked(text)
    # In which an element of a feature is sent: one of the DNN's widths, 32 as it is.
    bits: int = checked(integer(1, 32), default=profiles.BITS_AN_ELEMENT)
    kinds: tuple[DeviceType, ...] = checked(_shares_of_kinds)
    tasks: Tasks = checked(record(Tasks))
    radio: Radio = checked(record(Radio))
    speed: GaussMarkov = checked(record(GaussMarkov))  # of each device, 1 is nominal
    bandwidth: GaussMarkov = checked(record(GaussMarkov))  # share of the band that others leave
    capacity: GaussMarkov = checked(record(GaussMarkov))  # share of the server that others leave
    cloud: Cloud | None = checked(record(Cloud), default=None)
    # How late links, speeds and what others leave are known.
    delay_slots: int = checked(integer(0, 1), default=0)
    source: tuple[tuple[str, str], ...] = checked(sources)


def fleet_numbers(scenario: FleetScenario) -> dict[str, Any]:
    """Returns the arguments of `jaxcoinfer.systems.fleet.params.make_params` that describe a fleet.

    Versions are those of the DNN, cuts those its profile allows, the input first and the whole
    network on the device last.
    """
    dnn, link = profiles.load_dnn(scenario.dnn), profiles.load_link(scenario.link)
    server = profiles.load_server(scenario.server)
    versions = [profiles.version(dnn, width) for width in profiles.widths(dnn)]
    cuts = costs.cuts(dnn)
    devices = [profiles.load_device(kind.device) for kind in scenario.kinds]
    sent = np.array([costs.cut_bits(thin, scenario.bits) for thin in versions])
    sent[:, -1] = 0.0  # the result stays where it is wanted
    numbers = {
        "device_s": [
            [costs.cumulative_seconds(device, thin)[cuts] for thin in versions]
            for device in devices
        ],
        "device_energy_j": [
            [costs.cumulative_energy_j(device, thin)[cuts] for thin in versions]
            for device in devices
        ],
        "work_flop": [
            costs.cumulative([layer.flop for layer in thin.layers])[cuts] for thin in versions
        ],
        "upload_bits": np.round(sent[:, cuts]),
        "overhead_s": _overhead_s(server, dnn)[cuts],
        "accuracy": [costs.cut_accuracy(thin, scenario.bits)[cuts] for thin in versions],
        "bandwidth_hz": scenario.radio.bandwidth_hz,
        "server_flops": server.peak_flops,
        "rtt_s": link.rtt_s,
        "transmit_w": link.transmit_w,
        "transmit_j_per_bit": link.transmit_j_per_bit,
        "reference_s": scenario.reference_s,
        "cap_s": scenario.cap_s,
        "delay_slots": scenario.delay_slots,
    }
    if scenario.cloud is not None:
        cloud = profiles.load_server(scenario.cloud.server)
        numbers |= {
            "cloud_flops": cloud.peak_flops,
            "cloud_overhead_s": _overhead_s(cloud, dnn)[cuts],
            "cloud_rtt_s": scenario.cloud.rtt_s,
            "backhaul_bps": scenario.cloud.backhaul_bps,
        }
    return numbers


def _overhead_s(server: profiles.Server, dnn: profiles.Dnn) -> np.ndarray:
    """What the kernels before each cut take on a server beside their FLOP, seconds [L + 1]."""
    return costs.cumulative([layer.kernels * server.overhead_s for layer in dnn.layers])
