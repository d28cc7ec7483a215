"""What a run of `stopping` found: tables, numbers for JSON and figures. Nothing here prints or
writes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcoinfer.evaluation import comparison
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Sheet, Table
from jaxcoinfer.systems.stopping import status_reports, sweeps, timeline
from jaxcoinfer.systems.stopping.policies import COMPARED

_OF_MESSAGES = ("reports", "commands", "utility", "gain")  # fields of a `status_reports.Point`


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a run found beside its table."""

    latency_s: dict[str, np.ndarray]  # policy -> seconds, of every task [N]
    sweeps: dict[str, sweeps.Sweep]  # by axis
    messages: list[status_reports.Point]  # what reports buy
    curves: dict[str, tuple[np.ndarray, np.ndarray]]  # learner -> (tasks learned from, utility)
    regions: timeline.Regions  # where the best learner stops


def sheets(findings: Findings) -> dict[str, Sheet]:
    """Returns what messages buy and the learning curves, a CSV file each."""
    points = [
        (name, *point)
        for name, curve in findings.curves.items()
        for point in zip(*curve, strict=True)
    ]
    messages = [
        (p.way, p.threshold_slots, *comparison.flat(*(getattr(p, name) for name in _OF_MESSAGES)))
        for p in findings.messages
    ]
    header = (
        "way",
        "threshold_slots",
        *(f"{name}{half}" for name in _OF_MESSAGES for half in ("", "_half")),
    )
    return {"messages": (header, messages), "learning": (("learner", "tasks", "utility"), points)}


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
        "learning": comparison.curves_found(findings.curves, "tasks"),
    }


def draw_figures(table: Table, findings: Findings, deadline_s: float) -> dict[str, Any]:
    """Returns all figures, by name; imports matplotlib."""
    from jaxcoinfer.evaluation import plots
    from jaxcoinfer.systems.stopping import figures

    labels = {
        sweeps.ARRIVALS: "arrival rate, tasks/s",
        sweeps.LOAD: "server load by other devices, share",
    }
    panels = {
        labels[axis]: (s.numbers, s.utility, s.trained)
        for axis, s in findings.sweeps.items()
        if s.numbers
    }
    utility = {name: row.measures["utility"] for name, row in table.rows.items()}
    gains = {name: row.gain for name, row in table.rows.items()}
    regions = findings.regions
    drawn = {
        "utility": plots.utility(utility, gains, COMPARED),
        "delay": figures.delays(findings.latency_s, deadline_s),
        "decisions": figures.decisions(regions.stops, regions.backlog_s, regions.waiting_tasks),
        "learning": figures.learning(findings.curves),
        "messages": figures.messages(_by_way(findings.messages)),
    }
    return drawn | ({"sweeps": figures.sweeps(panels)} if panels else {})


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
