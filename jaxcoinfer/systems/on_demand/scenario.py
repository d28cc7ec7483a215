"""Scenarios of the system `on-demand`: their records, their checks, and the numbers of their task.
No jax.

Axes: E exits (the last is the full network), P cuts (0 sends the input, the last runs all on the
device), Q bit widths, G deadline classes, M states of a Markov chain.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.fields import (
    OneOf,
    Place,
    ProfileError,
    checked,
    identifier,
    integer,
    many,
    number,
    record,
    sources,
    text,
    word,
)
from jaxcoinfer.data.processes import (
    MAX_SLOTS,
    ConstantRate,
    ConstantSpeed,
    Fading,
    HeldOutages,
    MarkovRate,
    MarkovSpeed,
    RecordedRate,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadlineClass:
    """What some tasks want, with the reward
    `omega acc - (1 - omega) T / deadline_s - penalty [T > deadline_s]`.
    """

    name: str = checked(identifier)
    deadline_s: float = checked(number(above=True))
    accuracy_weight: float = checked(number(0.0, 1.0))  # omega
    penalty: float = checked(number())  # of a missed deadline
    share: float = checked(number(0.0, 1.0, above=True))  # of the tasks
    target_miss_ratio: float = checked(number(0.0, 1.0))  # reported against, changes nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridNumbers:
    """A task in plain numbers."""

    # [P], sums over the layers before each cut, the first 0.
    cut_device_s: tuple[float, ...] = checked(many(number(), 2))  # seconds on the device
    cut_edge_s: tuple[float, ...] = checked(many(number(), 2))  # seconds on the server
    cut_energy_j: tuple[float, ...] = checked(many(number(), 2))  # joules of the device
    input_bits: float = checked(number())
    cut_elements: tuple[float, ...] = checked(many(number(), 1))  # [P-1], at cuts 1 to P-1
    exit_cut: tuple[int, ...] = checked(many(integer(1), 1))  # [E], where each leaves, the last P-1
    # [E], of the heads of the exits.
    exit_device_s: tuple[float, ...] = checked(many(number(), 1))
    exit_edge_s: tuple[float, ...] = checked(many(number(), 1))
    exit_energy_j: tuple[float, ...] = checked(many(number(), 1))
    exit_accuracy: tuple[float, ...] = checked(many(number(0.0, 1.0), 1))
    bits: tuple[int, ...] = checked(many(integer(1, 32), 1))  # [Q], increasing
    # [Q], the accuracy that a feature of each width costs.
    bits_loss: tuple[float, ...] = checked(many(number(0.0, 1.0), 1))
    transmit_w: float = checked(number())
    transmit_j_per_bit: float = checked(number(), default=0.0)
    rtt_s: float = checked(number(), default=0.0)  # round trip, seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridProfiles:
    """A task from profiles, with every exit, cut and width that the DNN has."""

    dnn: str = checked(text)  # name of its profile, or path; likewise the next three
    device: str = checked(text)
    server: str = checked(text)
    link: str = checked(text)
    # [Q], the accuracy that a feature of each width of the DNN costs; left out where it is
    # measured, in the `.npz` beside the DNN's profile.
    bits_loss: tuple[float, ...] = checked(many(number(0.0, 1.0), 1), default=())


_TASKS = {"numbers": GridNumbers, "profiles": GridProfiles}
_RATES = {
    "constant": ConstantRate,
    "fading": Fading,
    "recorded": RecordedRate,
    "markov": MarkovRate,
}
_OUTAGES = {"held": HeldOutages}
_SPEEDS = {"constant": ConstantSpeed, "markov": MarkovSpeed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnDemandScenario:
    """One task per slot in one world: rows × slots of it are drawn at a time."""

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("on-demand"))
    slot_s: float = checked(number(above=True))  # seconds of a slot
    rows: int = checked(integer(2, 1 << 16))
    slots: int = checked(integer(16, MAX_SLOTS))
    delay_slots: int = checked(integer(0, 1), default=1)  # how late the device sees link and speeds
    cap: float = checked(number(1.0, 1e6, above=True), default=10.0)  # deadlines, then it gives up
    classes: tuple[DeadlineClass, ...] = checked(many(record(DeadlineClass), 1))
    task: Any = checked(OneOf(_TASKS))
    rate: Any = checked(OneOf(_RATES))
    outages: Any = checked(OneOf(_OUTAGES), default=None)
    device_speed: Any = checked(OneOf(_SPEEDS))
    edge_speed: Any = checked(OneOf(_SPEEDS))
    source: tuple[tuple[str, str], ...] = checked(sources)


def check(scenario: OnDemandScenario, place: Place) -> None:
    """Refuses numbers that cannot stand together."""
    shares = [c.share for c in scenario.classes]
    if abs(sum(shares) - 1.0) > 1e-6:
        place.at("classes.share").refuse(shares, "shares that sum to 1")
    names = [c.name for c in scenario.classes]
    if len(set(names)) < len(names):
        place.at("classes.name").refuse(names, "a name of its own for each class")
    match scenario.rate:
        case MarkovRate(rates_bps, transition):
            _check_chain(np.asarray(rates_bps), transition, place.at("rate"))
    match scenario.outages:
        case HeldOutages(_, shortest, longest) if longest < shortest:
            place.at("outages.longest_slots").refuse(
                longest, f"an integer >= shortest_slots = {shortest}"
            )
    for name in ("device_speed", "edge_speed"):
        match getattr(scenario, name):
            case MarkovSpeed(speeds, leave) if len(leave) != len(speeds) or len(set(speeds)) < len(
                speeds
            ):
                place.at(name).refuse(
                    (speeds, leave), "distinct speeds, and a probability to leave each"
                )


def _check_chain(
    values: np.ndarray, transition: tuple[tuple[float, ...], ...], place: Place
) -> None:
    n = len(values)
    if len(set(values)) < n:
        place.at("rates_bps").refuse(
            values.tolist(), "rates that differ: states that look alike are one state"
        )
    if len(transition) != n or any(len(row) != n for row in transition):
        place.at("transition").refuse(transition, f"{n} rows of {n} numbers, as rates_bps has {n}")
    for i, row in enumerate(transition):
        if abs(sum(row) - 1.0) > 1e-6:
            place.at("transition").item(i).refuse(row, "probabilities that sum to 1")
    reached = np.linalg.matrix_power(np.eye(n) + (np.asarray(transition) > 0), n) > 0
    if not reached.all():
        place.at("transition").refuse(
            transition, "a chain in which every state can be reached from every other"
        )


def stationary(transition: np.ndarray) -> np.ndarray:
    """Returns the distribution `pi = pi P` of a chain [M, M] whose states all reach each other,
    float64 [M].
    """
    n = len(transition)
    equations = np.vstack([np.asarray(transition, float).T - np.eye(n), np.ones(n)])
    return np.linalg.lstsq(equations, np.append(np.zeros(n), 1.0), rcond=None)[0].clip(0.0)


def grid_numbers(task: GridNumbers | GridProfiles) -> dict[str, Any]:
    """Returns the arguments of `jaxcoinfer.systems.on_demand.params.make_params` that describe a
    task.
    """
    return _from_numbers(task) if isinstance(task, GridNumbers) else _from_profiles(task)


def _from_numbers(task: GridNumbers) -> dict[str, Any]:
    cuts, exits, widths = len(task.cut_device_s), len(task.exit_cut), len(task.bits)
    lengths = {
        "cut_edge_s": cuts,
        "cut_energy_j": cuts,
        "cut_elements": cuts - 1,
        "bits_loss": widths,
    }
    lengths |= {f"exit_{name}": exits for name in ("device_s", "edge_s", "energy_j", "accuracy")}
    for name, length in lengths.items():
        if len(getattr(task, name)) != length:
            raise ProfileError(
                f"task.{name}: {len(getattr(task, name))} numbers; allowed: {length}"
            )
    kept = (
        "cut_device_s",
        "cut_edge_s",
        "cut_energy_j",
        "exit_cut",
        "exit_device_s",
        "exit_edge_s",
        "exit_energy_j",
    )
    kept += ("transmit_w", "transmit_j_per_bit", "rtt_s")
    features = np.outer(task.cut_elements, task.bits)
    return {name: getattr(task, name) for name in kept} | {
        "upload_bits": np.concatenate([np.full((1, widths), task.input_bits), features]),
        "accuracy": _accuracy(task.exit_accuracy, task.bits_loss, task.exit_cut, cuts),
        "cut_allowed": np.ones(cuts, bool),
    }


def _accuracy(
    exit_accuracy: Sequence[float],
    bits_loss: Sequence[float],
    exit_cut: Sequence[int],
    n_cuts: int,
) -> np.ndarray:
    """[E, P, Q]: `max(accuracy - loss, 0)` where a feature is sent, the exit's own where the input
    is, or nothing.
    """
    cut = np.arange(n_cuts)[None, :, None]
    sent = (cut > 0) & (cut < np.asarray(exit_cut)[:, None, None])
    lost = np.where(sent, np.asarray(bits_loss)[None, None, :], 0.0)
    return np.maximum(np.asarray(exit_accuracy)[:, None, None] - lost, 0.0)


def _from_profiles(task: GridProfiles) -> dict[str, Any]:
    dnn, device = profiles.load_dnn(task.dnn), profiles.load_device(task.device)
    server, link = profiles.load_server(task.server), profiles.load_link(task.link)
    n_layers, leaves = len(dnn.layers), [e.after_layer for e in dnn.exits]
    places = costs.cuts(dnn, also=leaves)
    ends = [places.index(place) for place in [*leaves, n_layers]]
    energy_j = costs.cumulative_energy_j(device, dnn)
    head_s = [*(costs.head_seconds(device, e) for e in dnn.exits), 0.0]
    bits = costs.upload_bits(dnn)[places, None] * (np.array(dnn.bits) / profiles.BITS_AN_ELEMENT)
    bits[0] = dnn.input_bits
    return {
        "cut_device_s": costs.cumulative_seconds(device, dnn)[places],
        "cut_edge_s": costs.cumulative_seconds(server, dnn)[places],
        "cut_energy_j": energy_j[places],
        "exit_cut": ends,
        "exit_device_s": head_s,
        "exit_edge_s": [*(costs.head_seconds(server, e) for e in dnn.exits), 0.0],
        "exit_energy_j": costs.computing_w(device) * np.array(head_s),
        "upload_bits": bits,
        "accuracy": _profile_accuracy(task, dnn, places, ends),
        "cut_allowed": [place == 0 or dnn.layers[place - 1].cut for place in places],
        "transmit_w": link.transmit_w,
        "transmit_j_per_bit": link.transmit_j_per_bit,
        "rtt_s": link.rtt_s,
    }


def _profile_accuracy(
    task: GridProfiles, dnn: profiles.Dnn, places: list[int], ends: list[int]
) -> np.ndarray:
    if task.bits_loss and len(task.bits_loss) != len(dnn.bits):
        raise ProfileError(
            f"task.bits_loss: {task.bits_loss}; "
            f"'{dnn.name}' has the {len(dnn.bits)} widths {dnn.bits}"
        )
    if task.bits_loss:
        exact = [*(e.accuracy for e in dnn.exits), dnn.full_accuracy]
        return _accuracy(exact, task.bits_loss, ends, len(places))
    if dnn.samples is None:
        raise ProfileError(
            "task.bits_loss: missing, and "
            f"'{dnn.name}' has no measured accuracy of widths {dnn.bits}"
        )
    return dnn.samples.unpacked()[0].mean(axis=-1)[:, places]
