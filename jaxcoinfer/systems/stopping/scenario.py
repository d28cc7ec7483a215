"""Scenarios of the system `stopping`: their records, and the numbers of their task. No jax."""

import dataclasses
from typing import Any

import numpy as np

from jaxcoinfer.data import profiles
from jaxcoinfer.data.fields import (
    ProfileError,
    checked,
    flag,
    identifier,
    integer,
    many,
    number,
    sources,
    text,
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
    one_of,
    word,
)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A task in plain numbers, as `jaxcoinfer.systems.stopping.env.Params` names them."""

    layer_s: tuple[float, ...] = checked(many(number(), 2))
    upload_bits: tuple[float, ...] = checked(many(number(), 2))
    server_s: tuple[float, ...] = checked(many(number(), 2))
    device_energy_j: tuple[float, ...] = checked(many(number(), 3))
    accuracy: tuple[float, ...] = checked(many(number(0.0, 1.0), 3))
    transmit_w: float = checked(number())
    transmit_j_per_bit: float = checked(number(), default=0.0)
    rtt_s: float = checked(number(), default=0.0)


@dataclasses.dataclass(frozen=True)
class FromProfiles:
    """A task from profiles: the DNN, run on the device up to the exit after layer `exit`, or cut
    before it.

    bits: in which an element of a feature is sent, one of the DNN's, 32 as it is.
    observe_confidence: the device sees how sure the exit head is, and may still upload; needs
    results image by image, in the `.npz` beside the DNN's profile.
    """

    dnn: str = checked(text)
    device: str = checked(text)
    server: str = checked(text)
    link: str = checked(text)
    exit: int = checked(integer(1))
    bits: int = checked(integer(1, 32), default=profiles.BITS_AN_ELEMENT)
    observe_confidence: bool = checked(flag, default=False)


_ARRIVALS = {"bernoulli": Bernoulli, "poisson": Poisson, "mmpp": Mmpp, "recorded": RecordedArrivals}
_LOADS = {"poisson-batches": PoissonBatches, "recorded": RecordedLoad}
_RATES = {"constant": ConstantRate, "fading": Fading, "recorded": RecordedRate}
_SPEEDS = {"constant": ConstantSpeed, "markov": MarkovSpeed}
_TASKS = {"numbers": Numbers, "profiles": FromProfiles}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoppingScenario:
    """One task of `stopping` in one world: rows × slots of it are drawn at a time.

    Weights: utility = accuracy_weight * accuracy - latency_s - energy_weight * energy_j.
    deadline_s is reported against, and changes nothing.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("stopping"))
    slot_s: float = checked(number(above=True))
    rows: int = checked(integer(2, 1 << 16))
    slots: int = checked(integer(16, MAX_SLOTS))
    accuracy_weight: float = checked(number())
    energy_weight: float = checked(number())
    deadline_s: float = checked(number(above=True))
    task: Any = checked(one_of(_TASKS))
    arrivals: Any = checked(one_of(_ARRIVALS))
    edge_load: Any = checked(one_of(_LOADS))
    rate: Any = checked(one_of(_RATES))
    speed: Any = checked(one_of(_SPEEDS))
    source: tuple[tuple[str, str], ...] = checked(sources)


def task_numbers(task: Numbers | FromProfiles) -> dict[str, Any]:
    """Returns what `make_params` wants to know about a task, by name.

    From profiles: Le + 1 stopping points at the cuts allowed before the exit; layers between two
    cuts count as one. With `observe_confidence` the exit head is one more layer, behind which the
    output of the layer before it can be sent.
    """
    if isinstance(task, Numbers):
        return dataclasses.asdict(task)
    dnn, device = profiles.load_dnn(task.dnn), profiles.load_device(task.device)
    server, link = profiles.load_server(task.server), profiles.load_link(task.link)
    leave, cuts = dnn.exits[_exit_number(task, dnn)], _cuts(task, dnn)
    device_s = np.concatenate([[0.0], np.cumsum(profiles.layer_seconds(device, dnn))])
    server_s = np.concatenate([[0.0], np.cumsum(profiles.layer_seconds(server, dnn))])
    head_s = profiles.head_seconds(device, leave)
    energy_j = profiles.cumulative_energy_j(device, dnn)[cuts]
    upload_bits = profiles.cut_bits(dnn, task.bits)
    after = (
        [-1] if task.observe_confidence else []
    )  # the head as a layer: what comes behind it is what comes before it
    left_s = server_s[-1] - server_s[cuts]
    through_j = energy_j[-1] + device.power_busy_w * head_s
    return {
        "layer_s": [*np.diff(device_s[cuts]), head_s, *[0.0 for _ in after]],
        "upload_bits": [*upload_bits[cuts], *upload_bits[cuts][after]],
        "server_s": [*left_s, *left_s[after]],
        "device_energy_j": [*energy_j, through_j, *[through_j for _ in after]],
        "accuracy": [
            *profiles.cut_accuracy(dnn, task.bits)[cuts + cuts[-1:] * task.observe_confidence],
            leave.accuracy,
        ],
        "transmit_w": link.transmit_w,
        "transmit_j_per_bit": link.transmit_j_per_bit,
        "rtt_s": link.rtt_s,
    }


def task_samples(task: Numbers | FromProfiles) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns, where the device looks at its exit head, what each choice gets right image by image,
    bool [P+1, S], and how sure the head is, [S]; else None.
    """
    if isinstance(task, Numbers) or not task.observe_confidence:
        return None
    dnn = profiles.load_dnn(task.dnn)
    if dnn.samples is None:
        raise ProfileError(
            f"task.observe_confidence = true: '{dnn.name}' has no results image by image; allowed: false"
        )
    number, cuts = _exit_number(task, dnn), _cuts(task, dnn)
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


def _cuts(task: FromProfiles, dnn: profiles.Dnn) -> list[int]:
    return [
        0,
        *(
            i + 1
            for i, layer in enumerate(dnn.layers[: task.exit])
            if layer.cut or i + 1 == task.exit
        ),
    ]
