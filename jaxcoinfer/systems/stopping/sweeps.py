"""All policies at other arrival rates and server loads, in worlds of the evaluation's own shapes:
nothing is retraced.

A world of K rows holds rows of several points, one point after another. All points share their
randomness, so a line is smooth in its number.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxcoinfer.data import processes
from jaxcoinfer.data.traces import TraceError
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.systems.stopping import exogenous
from jaxcoinfer.systems.stopping.make import draw, params_of
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.scenario import StoppingScenario

ARRIVALS, LOAD = "arrivals", "edge_load"  # the axes, as a scenario names them
_NO_LOAD = processes.PoissonBatches(load=0.0, job_s=1.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The points of all sweeps, and the worlds that hold their rows."""

    points: list[tuple[str, float]]  # (axis, number), in tasks/s or as a share of the server
    rows_each: int  # of each point
    worlds: list[Params]  # all of equal shapes


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Utility of each policy along one axis."""

    numbers: list[float]  # tasks/s, or shares of the server
    utility: dict[str, list[Interval]]  # by policy, one per number
    trained: float  # the number of the scenario itself


def plan(
    scenario: StoppingScenario, arrivals: Sequence[float], loads: Sequence[float], key: jax.Array
) -> Plan:
    """Draws held-out worlds for factors on the arrival rate and for shares of the server; consumes
    the key.

    As many rows per point as three worlds hold, two at least. A rate for which a recorded trace is
    too short is left out.
    """
    rows_each = max(2, 3 * scenario.rows // (len(arrivals) + len(loads)))
    own = _draw(scenario, key, rows_each)
    points, draws = [], []
    for factor in arrivals:
        busier = _busier(scenario, factor)
        try:  # the load is that of `own`, and slow to draw
            world = _draw(dataclasses.replace(busier, edge_load=_NO_LOAD), key, rows_each)
        except TraceError:
            continue
        points.append((ARRIVALS, tasks_a_second(busier)))
        draws.append(world.replace(edge_work=own.edge_work))
    for load in loads:
        loaded = dataclasses.replace(
            scenario, edge_load=dataclasses.replace(scenario.edge_load, load=load)
        )
        try:
            world = own if load == scenario.edge_load.load else _draw(loaded, key, rows_each)
        except TraceError:
            continue
        points.append((LOAD, load))
        draws.append(world)
    if not points:
        return Plan([], rows_each, [])
    everything = exogenous.concatenate(draws)
    # The last world is filled up with rows of the first.
    n_worlds = -(-rows_each * len(points) // scenario.rows)
    rows = np.resize(np.arange(rows_each * len(points)), (n_worlds, scenario.rows))
    worlds = [
        params_of(scenario, jax.tree.map(lambda leaf, own=own: leaf[own], everything), split="eval")
        for own in rows
    ]
    return Plan(points, rows_each, worlds)


def collect(
    plan: Plan, scenario: StoppingScenario, played: Mapping[str, Sequence[Tasks]]
) -> dict[str, Sweep]:
    """Returns the sweeps by axis from what each policy did in the worlds of the plan, less rows
    without a task.
    """
    trained = {ARRIVALS: tasks_a_second(scenario), LOAD: scenario.edge_load.load}
    lines = {name: _utility_by_point(plan, several) for name, several in played.items()}
    by_axis = {}
    for axis, own in trained.items():
        places = [i for i, (its_axis, _) in enumerate(plan.points) if its_axis == axis]
        utility = {name: [line[i] for i in places] for name, line in lines.items()}
        by_axis[axis] = Sweep([plan.points[i][1] for i in places], utility, own)
    return by_axis


def tasks_a_second(scenario: StoppingScenario) -> float:
    """Returns the mean arrival rate of a scenario, tasks/s."""
    match scenario.arrivals:
        case processes.Mmpp((low, high), (leave_low, leave_high)):
            mean = (low * leave_high + high * leave_low) / (leave_low + leave_high)
        case processes.Bernoulli(probability):
            mean = probability
        case other:
            mean = other.mean
    return mean / scenario.slot_s


def _busier(scenario: StoppingScenario, factor: float) -> StoppingScenario:
    """`factor` times as many arrivals, on average at most one per slot."""
    name = next(
        name for name in ("probability", "means", "mean") if hasattr(scenario.arrivals, name)
    )
    old = getattr(scenario.arrivals, name)
    new = (
        tuple(min(x * factor, 1.0) for x in old)
        if isinstance(old, tuple)
        else min(old * factor, 1.0)
    )
    return dataclasses.replace(
        scenario, arrivals=dataclasses.replace(scenario.arrivals, **{name: new})
    )


def _draw(scenario: StoppingScenario, key: jax.Array, n_rows: int) -> exogenous.Draw:
    """The first rows; all are drawn, as another shape would have to be compiled."""
    return jax.tree.map(lambda leaf: leaf[:n_rows], draw(key, scenario, split="eval"))


def _utility_by_point(plan: Plan, several: Sequence[Tasks]) -> list[Interval]:
    if not several:
        return []
    rows = np.concatenate([one.row + i * one.n_rows for i, one in enumerate(several)])
    n_rows = sum(one.n_rows for one in several)
    count = np.bincount(rows, minlength=n_rows)
    total = np.bincount(rows, np.concatenate([one.utility for one in several]), minlength=n_rows)
    line = []
    for i in range(len(plan.points)):
        own = slice(i * plan.rows_each, (i + 1) * plan.rows_each)
        has_tasks = count[own] > 0
        mean = total[own][has_tasks] / count[own][has_tasks]
        line.append(evaluate.interval(mean) if has_tasks.any() else Interval(np.nan, np.nan))
    return line
