"""What a run reports of `on-demand` policies: choices, late tasks, delays, accuracy by deadline,
and the first tasks.

Axes: N tasks, G classes, X rates, Y speeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.data import profiles
from jaxcoinfer.evaluation import chrome_trace, evaluate
from jaxcoinfer.evaluation.comparison import Played
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import play
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.systems.on_demand import misses
from jaxcoinfer.systems.on_demand.env import OnDemand, State, observe, price
from jaxcoinfer.systems.on_demand.exogenous import DEVICE_SPEED, RATE, Slot
from jaxcoinfer.systems.on_demand.misses import MissRatio
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.scenario import GridProfiles, OnDemandScenario

Misses = dict[str, tuple[MissRatio, ...]]  # of each class [G], by policy
CLASSES_PER_TABLE = 3  # of 80 columns
_RATIO = ("mean", "low", "high", "misses", "tasks")  # of `MissRatio`


@dataclasses.dataclass(frozen=True)
class Maps:
    """What a policy decides at each class, device speed and rate."""

    rate_bps: np.ndarray  # [X]
    speed: np.ndarray  # [Y], of the device, 1 = nominal
    exit: np.ndarray  # int [G, Y, X], from 1
    cut: np.ndarray  # int [G, Y, X], 0 sends the input
    bits: np.ndarray  # int [G, Y, X], 0 where no feature is sent


@dataclasses.dataclass(frozen=True)
class DeadlineSweep:
    """The deadline of one class varied."""

    deadlines_s: list[float]
    accuracy: dict[str, list[Interval]]  # by policy, at each deadline; a late task counts 0
    trained_s: float  # the deadline at training


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
    exit_, cut, width = (np.asarray(part) for part in env.unflatten(jnp.asarray(action)))
    sends_feature = np.asarray(params.offloads)[action] & (cut > 0)
    return exit_ + 1, cut, np.where(sends_feature, np.asarray(bits)[width], 0)


def choices(env: OnDemand, params: Params, bits: Sequence[int], played: Played) -> Sheet:
    """Returns how often each policy took each action, the most frequent first."""
    rows = []
    for name, seeds in played.items():
        taken_by_all = np.concatenate([tasks.choice for tasks in seeds])
        share = np.bincount(taken_by_all, minlength=env.n_actions) / len(taken_by_all)
        taken = np.argsort(-share, kind="stable")[: np.count_nonzero(share)]
        decided = np.stack(decisions(env, params, bits, taken), axis=-1).tolist()
        rows += [(name, *parts, share[a]) for a, parts in zip(taken, decided, strict=True)]
    return ("policy", "exit", "cut", "bits", "share"), rows


def misses_sheet(scenario: OnDemandScenario, ratios: Misses) -> Sheet:
    """Returns the share of late tasks of each policy and class, with its interval."""
    rows = [
        (name, c.name, c.target_miss_ratio, *(getattr(ratio, field) for field in _RATIO))
        for name, by_class in ratios.items()
        for c, ratio in zip(scenario.classes, by_class, strict=True)
    ]
    return ("policy", "class", "target", *_RATIO), rows


def misses_json(scenario: OnDemandScenario, ratios: Misses) -> dict[str, Any]:
    """Returns the share of late tasks ready for JSON."""
    names = [c.name for c in scenario.classes]
    return {
        policy: {
            name: dataclasses.asdict(ratio) for name, ratio in zip(names, by_class, strict=True)
        }
        for policy, by_class in ratios.items()
    }


def misses_printed(scenario: OnDemandScenario, ratios: Misses) -> tuple[Sheet, ...]:
    """Returns the share of late tasks as text, a few classes per table."""
    tables = []
    for first in range(0, len(scenario.classes), CLASSES_PER_TABLE):
        part = slice(first, first + CLASSES_PER_TABLE)
        heads = [f"{c.name}\ntarget {_share(c.target_miss_ratio)}" for c in scenario.classes[part]]
        rows = [(name, *map(_ratio, by_class[part])) for name, by_class in ratios.items()]
        tables.append((("share that is late\nwith 95 % interval", *heads), rows))
    return tuple(tables)


def delays(tasks: Mapping[str, Tasks], params: Params) -> dict[str, list[np.ndarray]]:
    """Returns the delays of the tasks of each class in deadlines, by policy."""
    by_policy = {}
    for name, one in tasks.items():
        classes = misses.task_classes(one, params)
        deadlines = one.latency_s / np.asarray(params.deadline_s)[classes]
        by_policy[name] = [deadlines[classes == g] for g in range(len(params.deadline_s))]
    return by_policy


def maps(
    env: OnDemand, params: Params, bits: Sequence[int], policy: Policy, n_classes: int
) -> Maps:
    """Returns what `policy` decides for the first n_classes, over the range of rates and device
    speeds in the bank, at edge speed 1.
    """
    slots = np.asarray(params.bank.slots)
    up_bps = slots[..., RATE][slots[..., RATE] > 0]
    rate_bps = np.geomspace(up_bps.min(), max(up_bps.max(), 2 * up_bps.min()), 61)
    slowest, fastest = slots[..., DEVICE_SPEED].min(), slots[..., DEVICE_SPEED].max()
    speed = (
        np.linspace(slowest, fastest, 41)
        if slowest < fastest
        else np.linspace(0.5, 1.5, 41) * fastest
    )
    zero = jnp.zeros((), jnp.int32)

    def decide(
        params: Params, task_class: jax.Array, speed: jax.Array, rate_bps: jax.Array
    ) -> jax.Array:
        slot = Slot(jnp.stack([rate_bps, speed, jnp.ones(()), task_class, rate_bps]))
        state = State(zero, zero, zero > 0, slot.task_class, slot, slot)
        return act(env, policy, jax.random.key(0), state, observe(env, state, params), params)

    on_grid = decide
    for axes in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
        on_grid = jax.vmap(on_grid, axes)
    grid = (jnp.asarray(values, jnp.float32) for values in (np.arange(n_classes), speed, rate_bps))
    action = np.asarray(jax.jit(on_grid)(params, *grid))
    return Maps(rate_bps, speed, *decisions(env, params, bits, action))


def sweep_deadline(
    env: OnDemand,
    params: Params,
    policies: Mapping[str, Policy],
    task_class: int,
    factors: Sequence[float],
    key: jax.Array,
) -> DeadlineSweep:
    """Returns what the policies reach at multiples of the deadline of a class; consumes the key."""
    trained_s = float(params.deadline_s[task_class])
    worlds = [
        params.replace(deadline_s=params.deadline_s.at[task_class].multiply(factor))
        for factor in factors
    ]
    played = play(env, policies, worlds, key)
    accuracy = {
        name: [
            _accuracy_in_time(tasks[name][0], world, task_class)
            for tasks, world in zip(played, worlds, strict=True)
        ]
        for name in policies
    }
    return DeadlineSweep([trained_s * factor for factor in factors], accuracy, trained_s)


def _accuracy_in_time(tasks: Tasks, params: Params, task_class: int) -> Interval:
    """Accuracy of the tasks of a class, late ones counted as 0."""
    of_class = misses.task_classes(tasks, params) == task_class
    in_time = tasks.latency_s <= float(params.deadline_s[task_class])
    accuracy = np.where(in_time, tasks.accuracy, 0.0)
    count = np.bincount(tasks.row, of_class, minlength=tasks.n_rows)
    total = np.bincount(tasks.row, of_class * accuracy, minlength=tasks.n_rows)
    return evaluate.interval(total[count > 0] / count[count > 0])


def trace_of_tasks(params: Params, tasks: Tasks, slot_s: float, n_tasks: int) -> dict[str, Any]:
    """Returns the first n_tasks of row 0 as a Chrome trace: when each was on device, radio and
    server.
    """
    action = jnp.asarray(tasks.choice[tasks.row == 0][:n_tasks])
    slots = int(params.delay_slots) + np.arange(len(action))
    records = Slot(params.bank.slots[0, slots])
    costs = jax.tree.map(np.asarray, price(params, records, records.task_class, action))
    events = chrome_trace.tracks("on-demand")
    for i, slot in enumerate(slots):
        task = jax.tree.map(lambda leaf, i=i: float(leaf[i]), costs)
        numbers = {
            name: round(getattr(task, name), 6)
            for name in ("latency_s", "accuracy", "energy_j", "utility")
        }
        numbers |= {"class": int(records.task_class[i]), "action": int(action[i])}
        begin_s, done_s = slot * slot_s, slot * slot_s + task.latency_s
        stages_s = (task.device_s, task.upload_s, task.edge_s)
        for track, stage_s in zip(chrome_trace.TRACKS, stages_s, strict=True):
            end_s = min(begin_s + stage_s, done_s)  # the task may be given up before
            if end_s > begin_s:
                events.append(
                    chrome_trace.slice_of(track, f"task {i}", begin_s * 1e6, end_s * 1e6, numbers)
                )
            begin_s = end_s
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _ratio(ratio: MissRatio) -> str:
    return f"{_share(ratio.mean, 2)} [{_share(ratio.low)},{_share(ratio.high)}]"


def _share(value: float, digits: int = 1) -> str:
    """A share in at most six characters: 0.42, 8e-4, 1.2e-3."""
    if value == 0 or value >= 0.01:
        return f"{value:.2f}" if value else "0"
    return f"{value:.{digits - 1}e}".replace("e-0", "e-")
