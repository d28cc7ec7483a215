"""Scenarios of the system `multi-user`: users that interfere. No JAX."""

import dataclasses
from typing import Any

import numpy as np

from jaxcoinfer.data import costs, profiles
from jaxcoinfer.data.fields import (
    ProfileError,
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


@dataclasses.dataclass(frozen=True)
class SplitTask:
    """A DNN and a device from profiles, split where the DNN may be cut."""

    dnn: str = checked(text)  # name of its profile, or path
    device: str = checked(text)  # name of its profile, or path
    # Mean watts up to each split but the first, where they were published beside the profile's
    # joules.
    compute_w: tuple[float, ...] = checked(many(number()), default=())


@dataclasses.dataclass(frozen=True)
class SubChannels:
    """Sub-channels that users share."""

    bandwidth_hz: float = checked(number(above=True))  # of each
    noise_w: float = checked(number(above=True))  # in each
    path_loss: float = checked(number(0.0, 10.0))  # the signal falls with distance^path_loss
    max_w: float = checked(number(above=True))  # of a user's radio
    least_w: float = checked(number(above=True))  # of a user's radio
    # Range of the users' distances.
    distances_m: tuple[float, ...] = checked(pair(number(above=True)))


@dataclasses.dataclass(frozen=True)
class Scales:
    """What an observation divides by."""

    seconds: float = checked(number(above=True))  # the remaining seconds
    bits: float = checked(number(above=True))  # the remaining bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiUserScenario:
    """Users on sub-channels; `rows` starts of episodes are drawn at a time.

    Reward of a slot: `-(slot_s + energy_weight * joules) / finished`, where joules and finished
    tasks are means over users.
    """

    name: str = checked(identifier)
    description: str = checked(text)
    system: str = checked(word("multi-user"))
    slot_s: float = checked(number(above=True))  # seconds of a slot
    rows: int = checked(integer(1, 1 << 20))
    users: int = checked(integer(1, 64))
    channels: int = checked(integer(1, 64))
    tasks: float = checked(number(above=True))  # mean number per user
    energy_weight: float = checked(number())  # seconds per joule
    tasks_floor: float = checked(number(above=True))  # `finished` counts no less
    task: SplitTask = checked(record(SplitTask))
    radio: SubChannels = checked(record(SubChannels))
    observation: Scales = checked(record(Scales))
    source: tuple[tuple[str, str], ...] = checked(sources)


def multi_user_numbers(scenario: MultiUserScenario) -> dict[str, Any]:
    """Returns the arguments of `jaxcoinfer.systems.multi_user.params.make_params`.

    Splits: the input first, every cut the DNN's profile allows, the whole network on the device
    last.
    """
    dnn, device = profiles.load_dnn(scenario.task.dnn), profiles.load_device(scenario.task.device)
    cuts = costs.cuts(dnn)
    compute_s = costs.cumulative_seconds(device, dnn)[cuts]
    published_w = scenario.task.compute_w
    if published_w and len(published_w) != len(cuts) - 1:
        raise ProfileError(
            f"task.compute_w = {list(published_w)}: '{dnn.name}' has {len(cuts) - 1} splits after "
            "the first; allowed: one number for each, or none"
        )
    compute_w = published_w or costs.cumulative_energy_j(device, dnn)[cuts][1:] / compute_s[1:]
    upload_bits = costs.upload_bits(dnn)[cuts].astype(np.float64)
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
