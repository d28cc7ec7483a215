"""Scenarios of the system `multi-user`: users that interfere. Read by
`jaxcoinfer.systems.stopping.scenario`; no jax.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxcoinfer.data import profiles
from jaxcoinfer.data.fields import (
    ProfileError,
    checked,
    identifier,
    integer,
    many,
    number,
    record,
    sources,
    text,
)
from jaxcoinfer.data.processes import pair, word


@dataclasses.dataclass(frozen=True)
class SplitTask:
    """A DNN and a device from profiles, split where the DNN may be cut.

    compute_w: mean watts up to each split but the first, where they were published beside the
    profile's joules.
    """

    dnn: str = checked(text)
    device: str = checked(text)
    compute_w: tuple[float, ...] = checked(many(number()), default=())


@dataclasses.dataclass(frozen=True)
class SubChannels:
    """Sub-channels of bandwidth_hz and noise_w each; the signal falls with distance^path_loss.

    max_w, least_w: of a user's radio. distances_m: range of the users' distances.
    """

    bandwidth_hz: float = checked(number(above=True))
    noise_w: float = checked(number(above=True))
    path_loss: float = checked(number(0.0, 10.0))
    max_w: float = checked(number(above=True))
    least_w: float = checked(number(above=True))
    distances_m: tuple[float, ...] = checked(pair(number(above=True)))


@dataclasses.dataclass(frozen=True)
class Scales:
    """What an observation divides remaining seconds and remaining bits by."""

    seconds: float = checked(number(above=True))
    bits: float = checked(number(above=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiUserScenario:
    """Users on sub-channels; `rows` starts of episodes are drawn at a time.

    tasks: mean number of tasks a user. Reward of a slot: `-(slot_s + energy_weight * joules) /
    finished`, both means over users, finished at least tasks_floor.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("multi-user"))
    slot_s: float = checked(number(above=True))
    rows: int = checked(integer(1, 1 << 20))
    users: int = checked(integer(1, 64))
    channels: int = checked(integer(1, 64))
    tasks: float = checked(number(above=True))
    energy_weight: float = checked(number())
    tasks_floor: float = checked(number(above=True))
    task: SplitTask = checked(record(SplitTask))
    radio: SubChannels = checked(record(SubChannels))
    observation: Scales = checked(record(Scales))
    source: tuple[tuple[str, str], ...] = checked(sources)


def multi_user_numbers(scenario: MultiUserScenario) -> dict[str, Any]:
    """Returns what `jaxcoinfer.systems.multi_user.params.make_params` wants to know, by name.

    Splits: the input first, every cut the DNN's profile allows, the whole network on the device
    last.
    """
    dnn, device = profiles.load_dnn(scenario.task.dnn), profiles.load_device(scenario.task.device)
    last = len(dnn.layers)
    cuts = [0, *(i for i, layer in enumerate(dnn.layers, 1) if layer.cut and i < last), last]
    compute_s = np.concatenate([[0.0], np.cumsum(profiles.layer_seconds(device, dnn))])[cuts]
    given_w = scenario.task.compute_w
    if given_w and len(given_w) != len(cuts) - 1:
        raise ProfileError(
            f"task.compute_w = {list(given_w)}: '{dnn.name}' has {len(cuts) - 1} splits after the first; "
            "allowed: one number for each, or none"
        )
    compute_w = given_w or profiles.cumulative_energy_j(device, dnn)[cuts][1:] / compute_s[1:]
    upload_bits = profiles.upload_bits(dnn)[cuts].astype(np.float64)
    upload_bits[-1] = 0.0  # the result stays where it is wanted
    radio = {
        field.name: getattr(scenario.radio, field.name)
        for field in dataclasses.fields(scenario.radio)
    }
    return radio | {
        "compute_s": compute_s,
        "compute_w": np.concatenate([[0.0], compute_w]),
        "upload_bits": upload_bits,
        "slot_s": scenario.slot_s,
        "energy_weight": scenario.energy_weight,
        "tasks_floor": scenario.tasks_floor,
        "scale_s": scenario.observation.seconds,
        "scale_bits": scenario.observation.bits,
    }
