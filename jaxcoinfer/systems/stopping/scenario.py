"""Scenarios of the system `stopping`: their records, and the numbers of their task. No jax."""

import dataclasses
from typing import Any

import numpy as np

from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.fields import (
    OneOf,
    ProfileError,
    checked,
    flag,
    identifier,
    integer,
    many,
    number,
    sources,
    text,
    word,
)
from jaxcoinfer.data.processes import (
    MAX_SLOTS,
    Bernoulli,
    ConstantRate,
    ConstantSpeed,
    Fading,
    MarkovSpeed,
    Mmpp,
    Poisson,
    PoissonBatches,
    RecordedArrivals,
    RecordedLoad,
    RecordedRate,
)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A task in plain numbers: P = Le + 1 stopping points between Le + 1 layers, the last of which
    is the exit.
    """

    layer_s: tuple[float, ...] = checked(many(number(), 2))  # [P], seconds of each layer
    upload_bits: tuple[float, ...] = checked(many(number(), 2))  # [P], sent at each point
    server_s: tuple[float, ...] = checked(many(number(), 2))  # [P], that the server still takes
    # [P + 1], joules of the device before each point and through the exit.
    device_energy_j: tuple[float, ...] = checked(many(number(), 3))
    accuracy: tuple[float, ...] = checked(many(number(0.0, 1.0), 3))  # [P + 1], likewise
    transmit_w: float = checked(number())
    transmit_j_per_bit: float = checked(number(), default=0.0)
    rtt_s: float = checked(number(), default=0.0)  # round trip, seconds


@dataclasses.dataclass(frozen=True)
class FromProfiles:
    """A task from profiles: the DNN, run on the device up to one of its exits, or cut before it."""

    dnn: str = checked(text)  # name of its profile, or path; likewise the next three
    device: str = checked(text)
    server: str = checked(text)
    link: str = checked(text)
    exit: int = checked(integer(1))  # the layer before the exit, from 1
    # In which an element of a feature is sent: one of the DNN's widths, 32 as it is.
    bits: int = checked(integer(1, 32), default=profiles.BITS_AN_ELEMENT)
    # Whether the device sees how sure the exit head is, and may still upload; needs results image
    # by image, in the `.npz` beside the DNN's profile. Earlier files say `look`.
    observe_confidence: bool = checked(flag, default=False, formerly="look")


_ARRIVALS = {"bernoulli": Bernoulli, "poisson": Poisson, "mmpp": Mmpp, "recorded": RecordedArrivals}
_LOADS = {"poisson-batches": PoissonBatches, "recorded": RecordedLoad}
_RATES = {"constant": ConstantRate, "fading": Fading, "recorded": RecordedRate}
_SPEEDS = {"constant": ConstantSpeed, "markov": MarkovSpeed}
_TASKS = {"numbers": Numbers, "profiles": FromProfiles}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoppingScenario:
    """One task of `stopping` in one world: rows × slots of it are drawn at a time.

    Utility: `accuracy_weight * accuracy - latency_s - energy_weight * energy_j`.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("stopping"))
    slot_s: float = checked(number(above=True))  # seconds of a slot
    rows: int = checked(integer(2, 1 << 16))
    slots: int = checked(integer(16, MAX_SLOTS))
    accuracy_weight: float = checked(number())
    energy_weight: float = checked(number())
    deadline_s: float = checked(number(above=True))  # reported against, changes nothing
    task: Any = checked(OneOf(_TASKS))
    arrivals: Any = checked(OneOf(_ARRIVALS))
    edge_load: Any = checked(OneOf(_LOADS))
    rate: Any = checked(OneOf(_RATES))
    speed: Any = checked(OneOf(_SPEEDS))
    source: tuple[tuple[str, str], ...] = checked(sources)


def task_numbers(task: Numbers | FromProfiles) -> dict[str, Any]:
    """Returns the arguments of `make_params` that describe a task.

    From profiles: Le + 1 stopping points at the cuts allowed before the exit; layers between two
    cuts count as one. With `observe_confidence` the exit head is one more layer, behind which the
    output of the layer before it can be sent.
    """
    if isinstance(task, Numbers):
        return dataclasses.asdict(task)
    dnn, device = profiles.load_dnn(task.dnn), profiles.load_device(task.device)
    server, link = profiles.load_server(task.server), profiles.load_link(task.link)
    leave, cuts = dnn.exits[_exit_number(task, dnn)], costs.cuts(dnn, task.exit)
    device_s = costs.cumulative_seconds(device, dnn)
    server_s = costs.cumulative_seconds(server, dnn)
    head_s = costs.head_seconds(device, leave)
    energy_j = costs.cumulative_energy_j(device, dnn)[cuts]
    upload_bits = costs.cut_bits(dnn, task.bits)
    # The head as a layer: what is known before it holds behind it too.
    after = [-1] if task.observe_confidence else []
    left_s = server_s[-1] - server_s[cuts]
    through_j = energy_j[-1] + costs.computing_w(device) * head_s
    return {
        "layer_s": [*np.diff(device_s[cuts]), head_s, *[0.0 for _ in after]],
        "upload_bits": [*upload_bits[cuts], *upload_bits[cuts][after]],
        "server_s": [*left_s, *left_s[after]],
        "device_energy_j": [*energy_j, through_j, *[through_j for _ in after]],
        "accuracy": [
            *costs.cut_accuracy(dnn, task.bits)[cuts + cuts[-1:] * task.observe_confidence],
            leave.accuracy,
        ],
        "transmit_w": link.transmit_w,
        "transmit_j_per_bit": link.transmit_j_per_bit,
        "rtt_s": link.rtt_s,
    }


def task_samples(task: Numbers | FromProfiles) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what each choice gets right image by image, bool [P + 1, S], and how sure the exit
    head is, [S]; None where the device does not observe that.
    """
    if isinstance(task, Numbers) or not task.observe_confidence:
        return None
    dnn = profiles.load_dnn(task.dnn)
    if dnn.samples is None:
        raise ProfileError(
            f"task.observe_confidence = true: '{dnn.name}' has no results image by image; "
            "allowed: false"
        )
    number, cuts = _exit_number(task, dnn), costs.cuts(dnn, task.exit)
    right = dnn.samples.unpacked()[0, :, :, dnn.bits.index(task.bits)]
    choices = [right[-1, cut] for cut in [*cuts, cuts[-1]]]
    return np.stack([*choices, right[number, task.exit]]), dnn.samples.confidence[0, number]


def _exit_number(task: FromProfiles, dnn: profiles.Dnn) -> int:
    after = [e.after_layer for e in dnn.exits]
    if task.exit not in after:
        exits = ", ".join(map(str, after)) or "none"
        raise ProfileError(
            f"task.exit = {task.exit}: '{dnn.name}' has no exit there; allowed: {exits}"
        )
    return after.index(task.exit)
