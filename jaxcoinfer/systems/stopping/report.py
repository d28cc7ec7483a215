"""What a run of `stopping` found: tables, numbers for JSON and figures. Nothing here prints or
writes. Axes: S seeds, K rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcoinfer.evaluation import comparison, evaluate, protocol, seeds
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.types import Bound, Sheet, Table
from jaxcoinfer.systems.stopping import status_reports, sweeps, timeline
from jaxcoinfer.systems.stopping.bounds import isolated, lagrangian
from jaxcoinfer.systems.stopping.bounds.dynamic_program import Solution
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.policies import EXACT, KNOWING, NOT_DEPLOYABLE
from jaxcoinfer.systems.stopping.scenario import StoppingScenario

_OF_MESSAGES = ("reports", "commands", "utility", "gain")  # fields of a `status_reports.Point`


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a run found beside its table."""

    latency_s: dict[str, np.ndarray]  # policy -> seconds, of every task [N]
    sweeps: dict[str, sweeps.Sweep]  # by axis
    messages: list[status_reports.Point]  # what reports buy
    curves: seeds.Curves  # learner -> (tasks learned from [n], utility [S, n])
    regions: timeline.Regions  # where the best learner stops


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What no policy exceeds."""

    by_policy: dict[str, np.ndarray]  # on the tasks of each policy and seed, by row [S, K]
    what: str
    computed: float | None  # of the exact optimum its computed gain


def bound_of(
    played: comparison.Played,
    env: Stopping,
    params: Params,
    scenario: StoppingScenario,
    solution: Solution | None,
) -> Bounds:
    """Returns what the policies are compared with: the exact optimum where it was computed, else
    the bound of prices for every slot, found towards what the clairvoyant policy reaches. Raises
    RunError where a row of the draw saw no task.
    """
    own = comparison.utility(played, scenario.name)
    if solution is not None:
        gain = float(solution.gain_per_task)
        return Bounds(dict.fromkeys(played, own[EXACT]), "the exact optimum", gain)
    (known,), (reached,) = played[KNOWING], own[KNOWING]
    bound = lagrangian.solve(env, params, evaluate.count_by_row(known), reached)
    alone = isolated.utility(env, params)

    def least(counts: np.ndarray) -> np.ndarray:
        return np.minimum(bound.by_row(counts), isolated.by_row(alone, counts))

    by_policy = {
        name: np.stack([least(evaluate.count_by_row(one)) for one in seeds_])
        for name, seeds_ in played.items()
    }
    return Bounds(by_policy, "any policy, the future known", None)


def table(
    played: comparison.Played,
    compared: str,
    bound: Bounds,
    env: Stopping,
    scenario: StoppingScenario,
) -> Table:
    """Returns one row per policy; compared: the baseline that gains are differences to."""
    clusters = protocol.links(scenario, "test", played[compared][0].n_rows)

    def measures(one: Tasks) -> dict[str, np.ndarray]:
        return evaluate.measures(one, env.n_choices, scenario.deadline_s)

    return Table(
        comparison.rows(played, bound.by_policy, measures, clusters, compared, NOT_DEPLOYABLE),
        Bound(bound.what, protocol.interval(bound.by_policy[compared], clusters), bound.computed),
        compared,
        sheets={
            "links": comparison.links_sheet(played, clusters),
            "differences": comparison.differences_sheet(
                comparison.utility(played, scenario.name), clusters, NOT_DEPLOYABLE
            ),
        },
    )


def sheets(findings: Findings) -> dict[str, Sheet]:
    """Returns what messages buy and the learning curves, a CSV file each."""
    messages = [
        (p.way, p.threshold_slots, *comparison.flat(*(getattr(p, name) for name in _OF_MESSAGES)))
        for p in findings.messages
    ]
    swept = [
        (axis, number, name, *comparison.flat(line[i]))
        for axis, sweep in findings.sweeps.items()
        for name, line in sweep.utility.items()
        for i, number in enumerate(sweep.numbers)
    ]
    header = (
        "way",
        "threshold_slots",
        *(f"{name}{half}" for name in _OF_MESSAGES for half in ("", "_half")),
    )
    return {
        "sweeps": (("axis", "number", "policy", "utility", "half_width"), swept),
        "messages": (header, messages),
        "learning": seeds.sheet(findings.curves),
    }


def summary(findings: Findings) -> dict[str, Any]:
    """Returns the sweeps, what messages buy and the end of learning, ready for JSON."""
    by_axis = {
        axis: {
            "numbers": sweep.numbers,
            "trained": sweep.trained,
            "utility": {
                name: [comparison.pair(i) for i in line] for name, line in sweep.utility.items()
            },
        }
        for axis, sweep in findings.sweeps.items()
    }
    messages = [
        {"way": p.way, "threshold_slots": p.threshold_slots}
        | {name: comparison.pair(getattr(p, name)) for name in _OF_MESSAGES}
        for p in findings.messages
    ]
    return {
        "sweeps": by_axis,
        "messages": messages,
        "learning": seeds.ends(findings.curves),
    }


def draw_figures(table: Table, findings: Findings, deadline_s: float) -> dict[str, Any]:
    """Returns all figures, by name; imports matplotlib."""
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.stopping import figures

    labels = {
        sweeps.ARRIVALS: "arrival rate, tasks/s",
        sweeps.LOAD: "server load by other devices, share",
    }
    panels, constants = (
        {
            labels.get(axis, f"{axis.replace('_', ' ')}, factor"): (s.numbers, s.utility, s.trained)
            for axis, s in findings.sweeps.items()
            if s.numbers and (axis in labels) == of_world
        }
        for of_world in (True, False)
    )
    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    regions = findings.regions
    drawn = {
        "utility": plots.utility(utility, gains, table.compared),
        "delay": figures.delays(findings.latency_s, deadline_s),
        "decisions": figures.decisions(regions.stops, regions.backlog_s, regions.waiting_tasks),
        "learning": plots.learning_band(findings.curves),
        "messages": figures.messages(_by_way(findings.messages)),
    }
    drawn |= {"sweeps": figures.sweeps(panels)} if panels else {}
    return drawn | ({"sensitivity": figures.sensitivity(constants)} if constants else {})


def _by_way(
    points: Sequence[status_reports.Point],
) -> dict[str, tuple[list[float], list[Interval]]]:
    """Reports per task and utility of each way to report to the server, by way."""
    ways = dict.fromkeys(point.way for point in points)
    by_way = {way: [point for point in points if point.way == way] for way in ways}
    return {
        way: ([p.reports.mean for p in several], [p.utility for p in several])
        for way, several in by_way.items()
    }
