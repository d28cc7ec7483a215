"""All policies in other worlds: at other arrival rates and server loads, and with the assumed
numbers of the scenario scaled up and down, one at a time.

A result that an assumed number can turn over is none: the sweeps of `CONSTANTS` show utility and
ranking against each. All points of a sweep share their randomness, so a line is smooth in its
number; nothing is trained or tuned again.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxcoinfer.data import processes
from jaxcoinfer.data.traces import TraceError
from jaxcoinfer.evaluation import evaluate, protocol
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.systems.stopping.exogenous import Draw
from jaxcoinfer.systems.stopping.make import draw, params_of
from jaxcoinfer.systems.stopping.params import Params
from jaxcoinfer.systems.stopping.scenario import StoppingScenario

ARRIVALS, LOAD = "arrivals", "edge_load"  # the axes, as a scenario names them
# Numbers that are scaled: what the axis is called -> the argument of `make_params`.
NUMBERS = {
    "device_time": "layer_s",
    "server_time": "server_s",
    "device_energy": "device_energy_j",
    "upload_size": "upload_bits",
}
JOBS, RATE = "others_jobs", "link_rate"  # length of the others' jobs, at the same load
CONSTANTS = (*NUMBERS, JOBS, RATE)
_ROWS, _SLOTS = 24, 4096  # of a world, at most


@dataclasses.dataclass(frozen=True)
class Plan:
    """The points of all sweeps, and the world of each."""

    points: list[tuple[str, float]]  # (axis, number), in tasks/s, as a share, or a factor
    worlds: list[Params]  # all of equal shapes


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Utility of each policy along one axis."""

    numbers: list[float]  # tasks/s, shares of the server, or factors
    utility: dict[str, list[Interval]]  # by policy, one per number
    trained: float  # the number of the scenario itself


def plan(
    scenario: StoppingScenario,
    arrivals: Sequence[float],
    loads: Sequence[float],
    factors: Sequence[float],
    key: jax.Array,
) -> Plan:
    """Draws held-out worlds for factors on the arrival rate, for shares of the server, and for
    factors on each of CONSTANTS; consumes the key.

    A world for which a recorded trace or its row is too short is left out.
    """
    rows, slots = min(scenario.rows, _ROWS), min(scenario.slots, _SLOTS)
    scenario = dataclasses.replace(scenario, rows=rows, slots=slots)
    wanted = [(ARRIVALS, factor) for factor in arrivals] + [(LOAD, load) for load in loads]
    wanted += [(axis, factor) for axis in CONSTANTS for factor in factors]
    points, worlds = [], []
    base = draw(key, scenario, split="test")
    for axis, number in wanted:
        try:
            world = _world(scenario, base, axis, number, key)
        except (TraceError, ValueError):
            continue
        points.append((axis, tasks_a_second(scenario) * number if axis == ARRIVALS else number))
        worlds.append(world)
    return Plan(points, worlds)


def _world(
    scenario: StoppingScenario, base: Draw, axis: str, number: float, key: jax.Array
) -> Params:
    if axis in NUMBERS:
        return params_of(scenario, base, split="test", scale={NUMBERS[axis]: number})
    if axis == RATE:
        scaled = {
            name: (getattr(base, name) * number).astype(base.slot_bits.dtype)
            for name in ("slot_bits", "observed_bits")
        }
        return params_of(scenario, base.replace(**scaled), split="test")
    if axis == ARRIVALS:
        other = draw(key, _busier(scenario, number), split="test")
        return params_of(scenario, base.replace(arrivals=other.arrivals), split="test")
    name = "job_s" if axis == JOBS else "load"
    value = scenario.edge_load.job_s * number if axis == JOBS else number
    load = dataclasses.replace(scenario.edge_load, **{name: value})
    other = draw(key, dataclasses.replace(scenario, edge_load=load), split="test")
    return params_of(scenario, base.replace(edge_work=other.edge_work), split="test")


def collect(
    plan: Plan, scenario: StoppingScenario, played: Mapping[str, Sequence[Tasks]]
) -> dict[str, Sweep]:
    """Returns the sweeps by axis from what each policy did in the worlds of the plan, less rows
    without a task.
    """
    trained = {ARRIVALS: tasks_a_second(scenario), LOAD: scenario.edge_load.load}
    trained |= dict.fromkeys(CONSTANTS, 1.0)
    n_rows = min(scenario.rows, _ROWS)
    clusters = protocol.links(scenario, "test", n_rows)
    lines = {
        name: [_utility(tasks, clusters) for tasks in several] for name, several in played.items()
    }
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


def _utility(tasks: Tasks, clusters: Sequence[str]) -> Interval:
    count = evaluate.count_by_row(tasks)
    has_tasks = np.flatnonzero(count)
    if not len(has_tasks):
        return Interval(np.nan, np.nan)
    total = np.bincount(tasks.row, tasks.utility, minlength=tasks.n_rows)
    mean = total[has_tasks] / count[has_tasks]
    return protocol.interval(mean[None], [clusters[int(row)] for row in has_tasks])
