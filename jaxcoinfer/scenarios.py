"""Scenarios: one file says which task runs in which world. TOML, checked like profiles; no jax.

`profiles/scenarios/` holds the shipped ones and `profiles/README.md` the schema.
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer import profiles
from jaxcoinfer.profile_checks import (
    Place,
    ProfileError,
    check_sources,
    checked,
    flag,
    identifier,
    integer,
    many,
    nearest,
    number,
    sources,
    structure,
    text,
)
from jaxcoinfer.scenario_processes import (
    MAX_SLOTS,
    ConstantRate,
    ConstantSpeed,
    Fading,
    MarkovSpeed,
    RecordedRate,
    one_of,
    pair,
    word,
)
from jaxcoinfer.scenarios_fleet import FleetScenario
from jaxcoinfer.scenarios_multi_user import MultiUserScenario
from jaxcoinfer.scenarios_on_demand import OnDemandScenario
from jaxcoinfer.scenarios_on_demand import check as check_on_demand


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """At most one task a slot."""

    probability: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Tasks a slot, Poisson with this mean."""

    mean: float = checked(number(0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Mmpp:
    """Two-state Markov-modulated Poisson: tasks a slot in each state, probability a slot to leave it."""

    means: tuple[float, ...] = checked(pair(number(0.0, 1.0)))
    leave: tuple[float, ...] = checked(pair(number(0.0, 1.0, above=True)))


@dataclasses.dataclass(frozen=True)
class RecordedArrivals:
    """Instants of a recorded trace, its time rescaled to `mean` tasks a slot."""

    trace: str = checked(text)
    mean: float = checked(number(0.0, 1.0, above=True))


@dataclasses.dataclass(frozen=True)
class PoissonBatches:
    """Jobs of other devices, Poisson many a slot, that take the share `load` of the server.

    jobs: "uniform" on (0, job_s), or "exponential" with mean job_s, seconds.
    """

    load: float = checked(number(0.0, 10.0))
    job_s: float = checked(number(above=True))
    jobs: str = checked(word("uniform", "exponential"), default="uniform")


@dataclasses.dataclass(frozen=True)
class RecordedLoad:
    """Jobs of job_s seconds at the instants of a recorded trace, its time rescaled to the share `load`."""

    trace: str = checked(text)
    load: float = checked(number(0.0, 10.0, above=True))
    job_s: float = checked(number(above=True))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A task in plain numbers, as `jaxcoinfer.envs.stopping.Params` names them."""

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
    """A task from profiles: the DNN, run on the device up to the exit after layer `exit`, or cut before it.

    bits: in which an element of a feature is sent, one of the DNN's, 32 as it is. observe_confidence: the device sees how sure the
    exit head is, and may still upload; needs results image by image, in the `.npz` beside the DNN's profile.
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
class Scenario:
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


SYSTEMS = {
    "stopping": Scenario,
    "on-demand": OnDemandScenario,
    "fleet": FleetScenario,
    "multi-user": MultiUserScenario,
}


def list_scenarios() -> tuple[str, ...]:
    """Names of the shipped scenarios, in alphabetical order."""
    return tuple(sorted(path.stem for path in (profiles.profiles_root() / "scenarios").glob("*.toml")))


def load_scenario(name_or_path: str | Path) -> Any:
    """Reads the scenario of that name, or in the file at that path (one with a `/` or `.toml`).

    Returns the record of its `system`: `Scenario`, `OnDemandScenario`, `FleetScenario` or `MultiUserScenario`. Raises
    ProfileError in one line that names file, field, value and what is allowed.
    """
    name = str(name_or_path)
    bare = not (name.endswith(".toml") or "/" in name or "\\" in name)
    path = profiles.profiles_root() / "scenarios" / f"{name}.toml" if bare else Path(name)
    if not path.is_file():
        known = list(list_scenarios())
        what = f"unknown scenario '{name}'" if bare else f"{name}: no such scenario file"
        raise ProfileError(f"{what}; shipped scenarios: {', '.join(known)}{nearest(path.stem, known)}")
    place = Place(str(path))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {' '.join(str(error).split())}") from None
    if table.pop("kind", None) != "scenario":
        place.at("kind").refuse(table.get("kind"), "'scenario'")
    system = table.get("system", "stopping")
    scenario = structure(SYSTEMS[word(*SYSTEMS)(system, place.at("system"))], table, place)
    if isinstance(scenario, OnDemandScenario):
        check_on_demand(scenario, place)
    check_sources(table, place)
    return scenario


def task_numbers(task: Numbers | FromProfiles) -> dict[str, Any]:
    """Returns what `make_params` wants to know about a task, by name.

    From profiles: Le + 1 stopping points at the cuts allowed before the exit; layers between two cuts count as one.
    With `observe_confidence` the exit head is one more layer, behind which the output of the layer before it can be sent.
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
    after = [-1] if task.observe_confidence else []  # the head as a layer: what comes behind it is what comes before it
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
    """Returns, where the device looks at its exit head, what each choice gets right image by image, bool [P+1, S], and
    how sure the head is, [S]; else None."""
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
        raise ProfileError(f"task.exit = {task.exit}: '{dnn.name}' has no exit there; allowed: {exits}")
    return after.index(task.exit)


def _cuts(task: FromProfiles, dnn: profiles.Dnn) -> list[int]:
    return [0, *(i + 1 for i, layer in enumerate(dnn.layers[: task.exit]) if layer.cut or i + 1 == task.exit)]
