"""What a run reports of the policies of `fleet`: classes of task, choices, shares, other worlds and
single tasks.

Axes: K rows, N kinds of machine, V versions, P cuts, X values of a sweep.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcoinfer.evaluation import chrome_trace, evaluate, protocol
from jaxcoinfer.evaluation.comparison import flat, pair
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.types import Sheet
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.evaluation import FleetTasks, certified, player
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import INFORMED, RECOVERY, EnvPolicy
from jaxcoinfer.systems.fleet.scenario import FleetScenario

CLASSES = ("accuracy-sensitive", "latency-sensitive")
BOUND = "bound"
_MEASURES = ("accuracy", "latency_s", "energy_j", "cost")  # of a class

World = tuple[Fleet, FleetParams]
Costs = Mapping[str, np.ndarray]  # policy or BOUND -> mean cost per task of each row that has tasks
ByClass = dict[str, list[dict[str, Interval]]]  # policy -> the measures of each class


@dataclass(frozen=True)
class Sweep:
    """One number of the world varied."""

    values: Sequence[float]  # [X]
    bound: list[Interval]  # [X], the certified bound on the cost per task
    cost: dict[str, list[Interval]]  # policy -> cost per task, [X]
    gap: dict[str, list[Interval]]  # policy -> how far that is above the bound, relative, [X]


@dataclass(frozen=True)
class Habits:
    """How a policy decides, by kind of machine and class of task; NaN where there was no task."""

    choices: np.ndarray  # [N, 2, V, P], share of the tasks that take each version and cut
    bandwidth: np.ndarray  # [N, 2], mean share of the band that a task gets
    compute: np.ndarray  # [N, 2], mean share of the server that a task gets


def gap_by_row(tasks: Tasks, bound: np.ndarray) -> np.ndarray:
    """Returns how far the cost of each row is above its bound [K], relative to the bound, [K]."""
    return -evaluate.by_row(tasks, tasks.utility) / bound - 1.0


def by_class(played: Mapping[str, Sequence[FleetTasks]]) -> ByClass:
    """Returns accuracy, latency_s, energy_j and cost of each class, by policy; intervals over the
    rows with tasks of it.
    """
    return {
        name: [_measures(seeds, bool(c)) for c in range(len(CLASSES))]
        for name, seeds in played.items()
    }


def _measures(seeds: Sequence[FleetTasks], urgent: bool) -> dict[str, Interval]:
    """Measures of the tasks of a class."""
    by_seed = []
    for tasks in seeds:
        counted = tasks.urgent == urgent
        count = np.bincount(tasks.row, counted, minlength=tasks.n_rows)
        has_tasks = count > 0
        values = (tasks.accuracy, tasks.latency_s, tasks.energy_j, -tasks.utility)
        sums = [np.bincount(tasks.row, counted * value, minlength=tasks.n_rows) for value in values]
        by_seed.append([total[has_tasks] / count[has_tasks] for total in sums])
    by_measure = np.swapaxes(np.array(by_seed), 0, 1)  # [measures, S, rows]
    rows = [str(row) for row in range(by_measure.shape[2])]
    if not rows:
        return dict.fromkeys(_MEASURES, Interval(np.nan, np.nan))
    return {
        name: protocol.interval(values, rows)
        for name, values in zip(_MEASURES, by_measure, strict=True)
    }


def classes_printed(classes: ByClass, order: Iterable[str]) -> Sheet:
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
            for measures in classes[policy]
            for text in (
                f"{measures['accuracy'].mean:.3f}",
                f"{measures['latency_s'].mean * 1e3:.0f}",
                f"{measures['cost'].mean:.4f}",
            )
        ]
        rows.append((policy, *cells))
    return ("tasks sensitive to", *heads), rows


def classes_sheet(classes: ByClass) -> Sheet:
    """Returns the table of classes as a CSV file."""
    rows = [
        (policy, name, *flat(*(measures[what] for what in _MEASURES)))
        for policy, by_class in classes.items()
        for name, measures in zip(CLASSES, by_class, strict=True)
    ]
    heads = (f"{what}{end}" for what in _MEASURES for end in ("", "_half_width"))
    return ("policy", "class", *heads), rows


def classes_json(classes: ByClass) -> dict[str, Any]:
    """Returns the table of classes for JSON."""
    return {
        policy: {
            name: {what: pair(interval) for what, interval in measures.items()}
            for name, measures in zip(CLASSES, by_class, strict=True)
        }
        for policy, by_class in classes.items()
    }


def habits(env: Fleet, tasks: FleetTasks, n_kinds: int) -> Habits:
    """Returns how a policy with shares of least cost decides."""
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


def choices_sheet(
    env: Fleet, played: Mapping[str, Sequence[FleetTasks]], kinds: Sequence[str]
) -> Sheet:
    """Returns how many tasks of each kind and class take each choice, as a CSV file; choices that
    no task takes are left out.
    """
    rows = []
    for policy, seeds in played.items():
        columns = np.concatenate(
            [np.stack([one.kind, one.urgent, *env.parts(one.choice)]) for one in seeds], axis=1
        )
        for (kind, urgent, *parts), n in zip(*_counted(columns), strict=True):
            rows.append((policy, kinds[kind], CLASSES[urgent], *parts, n))
    return ("policy", "kind", "class", "version", "cut", "second_cut", "tasks"), rows


def _counted(columns: np.ndarray) -> tuple[list, list]:
    """The distinct columns, and how often each occurs."""
    distinct, counts = np.unique(columns.astype(int), axis=1, return_counts=True)
    return distinct.T.tolist(), counts.tolist()


def shares_sheet(habits: Habits, kinds: Sequence[str]) -> Sheet:
    """Returns the mean shares as a CSV file."""
    rows = [
        (kind, name, float(habits.bandwidth[i, c]), float(habits.compute[i, c]))
        for i, kind in enumerate(kinds)
        for c, name in enumerate(CLASSES)
    ]
    return ("kind", "class", "bandwidth_share", "server_share"), rows


def costs(
    worlds: Iterable[World], policies: Callable[[Fleet], Mapping[str, EnvPolicy]]
) -> list[Costs]:
    """Returns the mean cost per task of each policy in each world."""
    players, by_world = {}, []
    for env, params in worlds:
        # Compiled once for all worlds of one size.
        play = players.setdefault(env, player(policies(env)))
        by_world.append(
            {
                name: _with_tasks(params, np.mean([_cost_by_row(one) for one in seeds], axis=0))
                for name, seeds in play(params).items()
            }
        )
    return by_world


def certified_costs(worlds: Iterable[World]) -> list[Costs]:
    """Returns the bound in each world, and the cost of the answer that comes with it."""
    certificates = [(params, *certified(env, params)) for env, params in worlds]
    return [
        {
            BOUND: _with_tasks(params, bound),
            INFORMED if int(params.delay_slots) else RECOVERY: _with_tasks(params, cost),
        }
        for params, bound, cost in certificates
    ]


def _cost_by_row(tasks: FleetTasks) -> np.ndarray:
    total = np.bincount(tasks.row, -tasks.utility, minlength=tasks.n_rows)
    return total / np.maximum(evaluate.count_by_row(tasks), 1)


def _with_tasks(params: FleetParams, by_row: np.ndarray) -> np.ndarray:
    """The entries of rows that have tasks."""
    return by_row[np.asarray(params.bank.active)[:, :-1].any(axis=(1, 2))]


def sweep(values: Sequence[float], costs_at: Sequence[Costs]) -> Sweep:
    """Returns costs and gaps, given the costs at each value."""
    names = [name for name in costs_at[0] if name != BOUND]
    return Sweep(
        values,
        [evaluate.interval(costs[BOUND]) for costs in costs_at],
        {name: [evaluate.interval(costs[name]) for costs in costs_at] for name in names},
        {
            name: [evaluate.interval(costs[name] / costs[BOUND] - 1.0) for costs in costs_at]
            for name in names
        },
    )


def sweep_rows(what: str, sweep: Sweep) -> list[tuple]:
    """Returns a sweep as lines of a CSV file."""
    no_gap = [Interval(0.0, 0.0)] * len(sweep.values)
    lines = {BOUND: (sweep.bound, no_gap)} | {
        name: (sweep.cost[name], sweep.gap[name]) for name in sweep.cost
    }
    return [
        (what, float(value), name, *flat(cost, gap))
        for name, (costs, gaps) in lines.items()
        for value, cost, gap in zip(sweep.values, costs, gaps, strict=True)
    ]


def trace_of_tasks(
    env: Fleet, tasks: FleetTasks, scenario: FleetScenario, n_tasks: int
) -> dict[str, Any]:
    """Returns the first n_tasks of row 0 as a Chrome trace, one track per device."""
    first = np.flatnonzero(tasks.row == 0)[:n_tasks]
    names = {device: f"device {device}" for device in range(scenario.devices)}
    events = chrome_trace.tracks("fleet", names)
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
            "class": CLASSES[int(tasks.urgent[i])],
            "kind": scenario.kinds[int(tasks.kind[i])].device,
        }
        begin_us = int(tasks.slot[i]) * scenario.slot_s * 1e6
        end_us = begin_us + float(tasks.latency_s[i]) * 1e6
        name = f"slot {tasks.slot[i]}"
        track = int(tasks.device[i])
        events.append(chrome_trace.slice_of(track, name, begin_us, end_us, numbers))
    return {"displayTimeUnit": "ms", "traceEvents": events}
