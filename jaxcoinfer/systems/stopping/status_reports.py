"""What messages buy: utility against the reports a server gets of where the device is.

The server decides, on the state it believes in. It is told at every layer, or by the status twin's
rule, or at fixed lags without a twin (the last report is held for the truth), or not at all once a
task has been planned as it arrived. Only a device whose speed varies can surprise the server: where
a scenario's does not, it varies by a fifth here.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.data import processes
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Interval, Tasks
from jaxcoinfer.evaluation.executor import MultiPolicyEnv, PolicyWorld
from jaxcoinfer.systems.stopping import baselines
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.make import make
from jaxcoinfer.systems.stopping.scenario import StoppingScenario
from jaxcoinfer.systems.stopping.twin.status import StatusTwinEnv, watch

TWIN, HELD, EVERY_LAYER, GENERATION = "status twin", "last report", "every layer", "at generation"
THRESHOLDS = (0, 2, 5, 10, 20, 50)  # slots
_VARYING = processes.MarkovSpeed((0.8, 1.0, 1.2), (0.01, 0.01, 0.01))


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to report to the server, and what it gives per task."""

    way: str  # one of the names above
    threshold_slots: int | None  # None: no report after the first
    reports: Interval  # up
    commands: Interval  # down, to stop and upload
    utility: Interval
    gain: Interval  # in utility, on a report at every layer


def varied(scenario: StoppingScenario) -> StoppingScenario:
    """Returns the scenario with a device whose speed varies."""
    constant = isinstance(scenario.speed, processes.ConstantSpeed)
    return dataclasses.replace(scenario, speed=_VARYING) if constant else scenario


def measure(
    scenario: StoppingScenario,
    policy: Policy,
    key_draw: jax.Array,
    key_play: jax.Array,
    thresholds: Sequence[int] = THRESHOLDS,
) -> list[Point]:
    """Returns a point for each way and threshold, all on one held-out draw; consumes the keys."""
    env, params = make(varied(scenario), key_draw, split="test")
    never = params.bank.n_slots + 1
    ways = [(way, t, 0) for way in (TWIN, HELD) for t in (*thresholds, never)] + [
        (GENERATION, never, 1)
    ]
    watched = MultiPolicyEnv(
        StatusTwinEnv(env), (policy, baselines.at_generation(baselines.plan_waiting(env)))
    )
    # Planned at generation, a task needs no status: the truth serves to replay it.
    worlds = [
        PolicyWorld(
            watch(params, 0 if way == GENERATION else threshold, extrapolate=way != HELD),
            jnp.int32(which),
        )
        for way, threshold, which in ways
    ]
    played = evaluate.run(watched, worlds, Oracle(watched.act), key_play)
    full = played[0]
    points = [_point(EVERY_LAYER, 0, env, full, full, full.decisions)]
    for (way, threshold, _), tasks in zip(ways, played, strict=True):
        reports = 0 * tasks.decisions if way == GENERATION else None
        points.append(
            _point(way, None if threshold == never else threshold, env, tasks, full, reports)
        )
    return points


def _point(
    way: str,
    threshold: int | None,
    env: Stopping,
    tasks: Tasks,
    full: Tasks,
    reports: np.ndarray | None,
) -> Point:
    """reports: of each row, where they are not those that were counted."""
    by_row = (
        evaluate.by_row(tasks, tasks.reports)
        if reports is None
        else reports / evaluate.count_by_row(tasks)
    )
    return Point(
        way,
        threshold,
        evaluate.interval(by_row),
        evaluate.interval(evaluate.by_row(tasks, (tasks.choice <= env.n_layers).astype(float))),
        evaluate.interval(evaluate.by_row(tasks, tasks.utility)),
        evaluate.difference(tasks, full),
    )
