"""What is looked at in the policies of `fleet`: classes of task, choices, shares, other worlds,
single tasks.

Axes: K rows, N kinds of machine, V versions, P cuts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcoinfer.evaluation import chrome_trace as timeline
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.comparison import flat, pair
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.evaluation import FleetTasks, certified, player
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import REFERENCE, EnvPolicy
from jaxcoinfer.systems.fleet.scenario import FleetScenario

CLASSES = ("accuracy-sensitive", "latency-sensitive")
BOUND = "bound"
_OF_CLASS = ("accuracy", "latency_s", "energy_j", "cost")

World = tuple[Fleet, FleetParams]
Costs = Mapping[str, np.ndarray]  # policy, or the bound -> cost of a task in each row that has one
ByClass = dict[str, list[dict[str, Interval]]]  # policy -> of each class its measures


@dataclass(frozen=True)
class Sweep:
    """One number of the world varied: its values [X], and at each the bound, the cost of a task,
    and by how much that is above the bound, in shares of it; by policy.
    """

    values: Sequence[float]
    bound: list[Interval]
    cost: dict[str, list[Interval]]
    gap: dict[str, list[Interval]]


@dataclass(frozen=True)
class Habits:
    """How a policy decides: share of the tasks of a kind and class that take each version and cut,
    [N, 2, V, P], and the mean share of the band and of the server that such a task gets, [N, 2]
    each; NaN where there was none.
    """

    choices: np.ndarray
    bandwidth: np.ndarray
    compute: np.ndarray


def gap_by_row(tasks: FleetTasks, bound: np.ndarray) -> np.ndarray:
    """Returns by how much the cost is above the bound [K], in shares of it, [K]."""
    return -evaluate.by_row(tasks, tasks.utility) / bound - 1.0


def by_class(tasks: Mapping[str, FleetTasks]) -> ByClass:
    """Returns accuracy, latency_s, energy_j and cost of each class, by policy; intervals over the
    rows that saw it.
    """
    return {
        name: [_of_class(one, one.urgent == bool(c)) for c in range(len(CLASSES))]
        for name, one in tasks.items()
    }


def _of_class(tasks: FleetTasks, chosen: np.ndarray) -> dict[str, Interval]:
    count = np.bincount(tasks.row, chosen, minlength=tasks.n_rows)
    seen = count > 0
    values = (tasks.accuracy, tasks.latency_s, tasks.energy_j, -tasks.utility)
    sums = [np.bincount(tasks.row, chosen * value, minlength=tasks.n_rows) for value in values]
    return {
        name: evaluate.interval(of[seen] / count[seen])
        for name, of in zip(_OF_CLASS, sums, strict=True)
    }


def classes_printed(found: ByClass, order: Iterable[str]) -> Sheet:
    """Returns the table of classes as text."""
    heads = [
        f"{name.split('-')[0]}-\n{what}"
        for name in CLASSES
        for what in ("accuracy", "delay ms", "cost")
    ]
    rows = []
    for policy in order:
        cells = [
            text
            for of in found[policy]
            for text in (
                f"{of['accuracy'].mean:.3f}",
                f"{of['latency_s'].mean * 1e3:.0f}",
                f"{of['cost'].mean:.4f}",
            )
        ]
        rows.append((policy, *cells))
    return ("tasks sensitive to", *heads), rows


def classes_sheet(found: ByClass) -> Sheet:
    """Returns the table of classes as a CSV file."""
    rows = [
        (policy, name, *flat(*(of[what] for what in _OF_CLASS)))
        for policy, several in found.items()
        for name, of in zip(CLASSES, several, strict=True)
    ]
    return (
        "policy",
        "class",
        *(f"{what}{end}" for what in _OF_CLASS for end in ("", "_half_width")),
    ), rows


def classes_found(found: ByClass) -> dict[str, Any]:
    """Returns the table of classes for JSON."""
    return {
        policy: {
            name: {what: pair(interval) for what, interval in of.items()}
            for name, of in zip(CLASSES, several, strict=True)
        }
        for policy, several in found.items()
    }


def habits(env: Fleet, tasks: FleetTasks, n_kinds: int) -> Habits:
    """Returns how a policy with shares of least cost decides, by kind of machine and class of task."""
    version, cut, _ = env.parts(tasks.choice)
    count = np.zeros((n_kinds, len(CLASSES), env.n_versions, env.n_cuts))
    urgent = tasks.urgent.astype(int)
    np.add.at(count, (tasks.kind, urgent, version, cut), 1.0)
    sums = [np.zeros((n_kinds, len(CLASSES))) for _ in range(2)]
    for total, share in zip(sums, (tasks.bandwidth, tasks.compute), strict=True):
        np.add.at(total, (tasks.kind, urgent), share)
    n = count.sum(axis=(2, 3))
    n = np.where(n > 0, n, np.nan)
    return Habits(count / n[..., None, None], sums[0] / n, sums[1] / n)


def choices_sheet(env: Fleet, tasks: Mapping[str, FleetTasks], kinds: Sequence[str]) -> Sheet:
    """Returns how many tasks of each kind and class take each choice, as a CSV file; those that
    none takes left out.
    """
    rows = []
    for policy, one in tasks.items():
        several = np.stack([one.kind, one.urgent, *env.parts(one.choice)])
        for (kind, urgent, *parts), n in zip(*_counted(several), strict=True):
            rows.append((policy, kinds[kind], CLASSES[urgent], *parts, n))
    return ("policy", "kind", "class", "version", "cut", "second_cut", "tasks"), rows


def _counted(columns: np.ndarray) -> tuple[list, list]:
    found, counts = np.unique(columns.astype(int), axis=1, return_counts=True)
    return found.T.tolist(), counts.tolist()


def shares_sheet(found: Habits, kinds: Sequence[str]) -> Sheet:
    """Returns the mean shares as a CSV file."""
    rows = [
        (kind, name, float(found.bandwidth[i, c]), float(found.compute[i, c]))
        for i, kind in enumerate(kinds)
        for c, name in enumerate(CLASSES)
    ]
    return ("kind", "class", "bandwidth_share", "server_share"), rows


def costs(
    worlds: Iterable[World], policies: Callable[[Fleet], Mapping[str, EnvPolicy]]
) -> list[Costs]:
    """Returns what a task costs each contender in each world."""
    players, found = {}, []
    for env, params in worlds:
        play = players.setdefault(
            env, player(policies(env))
        )  # compiled once for all worlds of one size
        found.append({name: _seen(params, _cost_by_row(one)) for name, one in play(params).items()})
    return found


def certified_costs(worlds: Iterable[World]) -> list[Costs]:
    """Returns the bound in each world, and what the reference, which comes with it, makes of it."""
    found = [(params, *certified(env, params)) for env, params in worlds]
    return [
        {BOUND: _seen(params, bound), REFERENCE: _seen(params, cost)}
        for params, bound, cost in found
    ]


def _cost_by_row(tasks: FleetTasks) -> np.ndarray:
    total = np.bincount(tasks.row, -tasks.utility, minlength=tasks.n_rows)
    return total / np.maximum(evaluate.count_by_row(tasks), 1)


def _seen(params: FleetParams, by_row: np.ndarray) -> np.ndarray:
    """Leaves out rows without a task."""
    return by_row[np.asarray(params.bank.active)[:, :-1].any(axis=(1, 2))]


def sweep(values: Sequence[float], found: Sequence[Costs]) -> Sweep:
    """Returns costs and gaps, given those of each policy and of the bound at each value."""
    names = [name for name in found[0] if name != BOUND]
    return Sweep(
        values,
        [evaluate.interval(costs[BOUND]) for costs in found],
        {name: [evaluate.interval(costs[name]) for costs in found] for name in names},
        {
            name: [evaluate.interval(costs[name] / costs[BOUND] - 1.0) for costs in found]
            for name in names
        },
    )


def sweep_rows(what: str, sweep: Sweep) -> list[tuple]:
    """Returns a sweep as lines of a CSV file."""
    nothing = [Interval(0.0, 0.0)] * len(sweep.values)
    lines = {BOUND: (sweep.bound, nothing)} | {
        name: (sweep.cost[name], sweep.gap[name]) for name in sweep.cost
    }
    return [
        (what, float(value), name, *flat(cost, gap))
        for name, (costs, gaps) in lines.items()
        for value, cost, gap in zip(sweep.values, costs, gaps, strict=True)
    ]


def chrome_trace(
    env: Fleet, tasks: FleetTasks, scenario: FleetScenario, n_tasks: int
) -> dict[str, Any]:
    """Returns the first n_tasks of row 0 as a Chrome trace, a track a device."""
    first = np.flatnonzero(tasks.row == 0)[:n_tasks]
    names = {device: f"device {device}" for device in range(scenario.devices)}
    events = timeline.tracks("fleet", names)
    version, cut, _ = env.parts(tasks.choice)
    for i in first:
        numbers = {
            name: round(float(getattr(tasks, name)[i]), 6)
            for name in ("latency_s", "accuracy", "energy_j")
        }
        numbers |= {
            "cost": round(-float(tasks.utility[i]), 6),
            "version": int(version[i]),
            "cut": int(cut[i]),
        }
        numbers |= {
            "class": CLASSES[int(tasks.urgent[i])],
            "kind": scenario.kinds[int(tasks.kind[i])].device,
        }
        begin_us = int(tasks.slot[i]) * scenario.slot_s * 1e6
        end_us = begin_us + float(tasks.latency_s[i]) * 1e6
        events.append(
            timeline.slice_of(
                int(tasks.device[i]), f"slot {tasks.slot[i]}", begin_us, end_us, numbers
            )
        )
    return {"displayTimeUnit": "ms", "traceEvents": events}
