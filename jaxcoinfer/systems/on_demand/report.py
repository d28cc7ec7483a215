"""What is to be seen of `on-demand` policies: choices, late tasks, delays and accuracy by deadline,
the first tasks.

Axes: N tasks, G classes, X rates, Y speeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data import profiles
from jaxcoinfer.evaluation import chrome_trace as timeline
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import play
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.systems.on_demand import env as on_demand
from jaxcoinfer.systems.on_demand import misses
from jaxcoinfer.systems.on_demand.env import OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import DEVICE_SPEED, RATE, Slot
from jaxcoinfer.systems.on_demand.misses import MissRatio
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.scenario import GridProfiles, OnDemandScenario

Misses = dict[str, tuple[MissRatio, ...]]  # of each class [G], by policy
CLASSES_A_LINE = 3  # of 80 columns


@dataclasses.dataclass(frozen=True)
class Maps:
    """What a policy decides: exit, cut and bits [G, Y, X], bits 0 where no feature is sent."""

    rate_bps: np.ndarray
    speed: np.ndarray
    exit: np.ndarray
    cut: np.ndarray
    bits: np.ndarray


@dataclasses.dataclass(frozen=True)
class DeadlineSweep:
    """Accuracy of the tasks of a class that are in time, those that are late counted as 0, at other
    deadlines of that class; trained_s: its own.
    """

    deadlines_s: list[float]
    accuracy: dict[str, list[Interval]]
    trained_s: float


def widths(scenario: OnDemandScenario) -> tuple[int, ...]:
    """Returns the bits of each width [Q]."""
    task = scenario.task
    return profiles.load_dnn(task.dnn).bits if isinstance(task, GridProfiles) else task.bits


def decisions(
    env: OnDemand, params: Params, bits: Sequence[int], action: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Returns exit (from 1), cut (0 sends the input) and bits of actions; bits 0 where no feature
    is sent.
    """
    leaves, cut, width = (np.asarray(part) for part in env.unflatten(jnp.asarray(action)))
    feature = np.asarray(params.offloads)[action] & (cut > 0)
    return leaves + 1, cut, np.where(feature, np.asarray(bits)[width], 0)


def choices(
    env: OnDemand, params: Params, bits: Sequence[int], tasks: Mapping[str, Tasks]
) -> Sheet:
    """Returns how often each policy took each action, the most frequent first."""
    rows = []
    for name, one in tasks.items():
        share = np.bincount(one.choice, minlength=env.n_actions) / len(one.choice)
        taken = np.argsort(-share, kind="stable")[: np.count_nonzero(share)]
        what = np.stack(decisions(env, params, bits, taken), axis=-1).tolist()
        rows += [(name, *of, share[a]) for a, of in zip(taken, what, strict=True)]
    return ("policy", "exit", "cut", "bits", "share"), rows


def misses_sheet(scenario: OnDemandScenario, ratios: Misses) -> Sheet:
    """Returns the share of late tasks of each policy and class, with its interval."""
    rows = [
        (name, c.name, c.target_miss_ratio, *(getattr(ratio, field) for field in _RATIO))
        for name, several in ratios.items()
        for c, ratio in zip(scenario.classes, several, strict=True)
    ]
    return ("policy", "class", "target", *_RATIO), rows


def misses_found(scenario: OnDemandScenario, ratios: Misses) -> dict[str, Any]:
    """Returns the same ready for JSON."""
    names = [c.name for c in scenario.classes]
    return {
        policy: {
            name: dataclasses.asdict(ratio) for name, ratio in zip(names, several, strict=True)
        }
        for policy, several in ratios.items()
    }


def misses_printed(scenario: OnDemandScenario, ratios: Misses) -> tuple[Sheet, ...]:
    """Returns the same as text, a few classes a table."""
    tables = []
    for first in range(0, len(scenario.classes), CLASSES_A_LINE):
        some = slice(first, first + CLASSES_A_LINE)
        heads = [f"{c.name}\ntarget {_ratio(c.target_miss_ratio)}" for c in scenario.classes[some]]
        rows = [
            (
                name,
                *(f"{_ratio(r.mean, 2)} [{_ratio(r.low)},{_ratio(r.high)}]" for r in several[some]),
            )
            for name, several in ratios.items()
        ]
        tables.append((("share that is late\nwith 95 % interval", *heads), rows))
    return tuple(tables)


def delays(tasks: Mapping[str, Tasks], params: Params) -> dict[str, list[np.ndarray]]:
    """Returns the delays of the tasks of each class in deadlines, by policy."""
    found = {}
    for name, one in tasks.items():
        kinds = misses.task_classes(one, params)
        deadlines = one.latency_s / np.asarray(params.deadline_s)[kinds]
        found[name] = [deadlines[kinds == g] for g in range(len(params.deadline_s))]
    return found


def maps(
    env: OnDemand, params: Params, bits: Sequence[int], policy: Policy, n_classes: int
) -> Maps:
    """Returns what `policy` decides for the first n_classes at rates and device speeds as in the
    bank, edge speed 1.
    """
    seen = np.asarray(params.bank.slots)
    up = seen[..., RATE][seen[..., RATE] > 0]
    rate_bps = np.geomspace(up.min(), max(up.max(), 2 * up.min()), 61)
    slowest, fastest = seen[..., DEVICE_SPEED].min(), seen[..., DEVICE_SPEED].max()
    speed = (
        np.linspace(slowest, fastest, 41)
        if slowest < fastest
        else np.linspace(0.5, 1.5, 41) * fastest
    )
    zero = jnp.zeros((), jnp.int32)

    def decide(params, kind, speed, rate):
        slot = Slot(jnp.stack([rate, speed, jnp.ones(()), kind]))
        state = State(zero, zero, zero > 0, slot, slot)
        return policy(jax.random.key(0), state, on_demand.observe(env, state, params), params)

    grid = decide
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        grid = jax.vmap(grid, axes)
    given = (jnp.asarray(values, jnp.float32) for values in (np.arange(n_classes), speed, rate_bps))
    action = np.asarray(jax.jit(grid)(params, *given))
    return Maps(rate_bps, speed, *decisions(env, params, bits, action))


def sweep_deadline(
    env: OnDemand,
    params: Params,
    policies: Mapping[str, Policy],
    kind: int,
    factors: Sequence[float],
    key: jax.Array,
) -> DeadlineSweep:
    """Returns what the policies reach at multiples of the deadline of class `kind`; consumes the
    key.
    """
    own_s = float(params.deadline_s[kind])
    worlds = [
        params.replace(deadline_s=params.deadline_s.at[kind].multiply(factor)) for factor in factors
    ]
    played = play(env, policies, worlds, key)
    accuracy = {
        name: [_in_time(one, world, kind) for one, world in zip(several, worlds, strict=True)]
        for name, several in played.items()
    }
    return DeadlineSweep([own_s * factor for factor in factors], accuracy, own_s)


def _in_time(tasks: Tasks, params: Params, kind: int) -> Interval:
    of_kind = misses.task_classes(tasks, params) == kind
    reached = np.where(tasks.latency_s <= float(params.deadline_s[kind]), tasks.accuracy, 0.0)
    count = np.bincount(tasks.row, of_kind, minlength=tasks.n_rows)
    total = np.bincount(tasks.row, of_kind * reached, minlength=tasks.n_rows)
    return evaluate.interval(total[count > 0] / count[count > 0])


def chrome_trace(
    env: OnDemand, params: Params, tasks: Tasks, slot_s: float, n_tasks: int
) -> dict[str, Any]:
    """Returns the first n_tasks of row 0 as a Chrome trace: where each was, on device, radio and
    server.
    """
    action = jnp.asarray(tasks.choice[tasks.row == 0][:n_tasks])
    slots = int(params.delay_slots) + np.arange(len(action))
    records = Slot(params.bank.slots[0, slots])
    costs = jax.tree.map(np.asarray, on_demand.price(params, records, records.task_class, action))
    events = timeline.tracks("on-demand")
    for i, slot in enumerate(slots):
        own = jax.tree.map(lambda leaf, i=i: float(leaf[i]), costs)
        numbers = {
            name: round(getattr(own, name), 6)
            for name in ("latency_s", "accuracy", "energy_j", "utility")
        }
        numbers |= {"class": int(records.task_class[i]), "action": int(action[i])}
        at_s, end_s = slot * slot_s, slot * slot_s + own.latency_s
        for track, spent_s in zip(
            timeline.TRACKS, (own.device_s, own.upload_s, own.edge_s), strict=True
        ):
            until_s = min(at_s + spent_s, end_s)  # given up
            if until_s > at_s:
                events.append(
                    timeline.slice_of(track, f"task {i}", at_s * 1e6, until_s * 1e6, numbers)
                )
            at_s = until_s
    return {"displayTimeUnit": "ms", "traceEvents": events}


_RATIO = ("mean", "low", "high", "misses", "tasks")


def _ratio(value: float, digits: int = 1) -> str:
    """A share in six characters or less: 0.42, 8e-4, 1.2e-3."""
    if value == 0 or value >= 0.01:
        return f"{value:.2f}" if value else "0"
    return f"{value:.{digits - 1}e}".replace("e-0", "e-")
