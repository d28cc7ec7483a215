"""What the twin is worth: the steps that a learner needs with it and without, on every world.

    python -m training.twin [--scenario camera on-demand-markov fleet ...] [--seeds 5]

A learner takes the same keys and sizes twice: told what every choice would have given, and told
what the choice taken gave. The level is the lower one of both ends of learning, less a twentieth of
what was gained since the first evaluation; an end is the mean of the last five evaluations. One
line per scenario: steps, in the mean over seeds, until five evaluations in a row are at the level
in the mean, and their ratio, without over with; below one the twin hindered. `stopping`:
continuation value, from the forecast; `on-demand`: the published actor-critic; `fleet`: the price
network. `multi-user` has no twin.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxcoinfer.evaluation.executor import LEARN, TRAIN_DRAW, key_of
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import policies as fleet_policies
from jaxcoinfer.systems.fleet import run as fleet_run
from jaxcoinfer.systems.on_demand import policies as on_demand_policies
from jaxcoinfer.systems.on_demand import run as on_demand_run
from jaxcoinfer.systems.on_demand.lookup import look_up
from jaxcoinfer.systems.stopping import policies as stopping_policies
from training.common import make_world, parser, record
from training.curves import first_lasting

_WINDOW = 5  # evaluations whose mean counts
# Few steps between evaluations, so that the first points lie before the learner has learned.
_SHORT = {"n_evaluations": 120, "updates_per_evaluation": 2}


def _stopping(keys: jax.Array, env: Any, params: Any, twin: bool) -> TrainResult:
    learner = stopping_policies.LEARNERS[stopping_policies.METHOD]
    config = dataclasses.replace(
        learner.config,
        **_SHORT,
        n_devices=16,
        evaluation_devices=256,
        evaluation_tasks=100,
        twin=twin,
    )
    return learner.train(keys, params, env, config, prices=None)


def _on_demand(keys: jax.Array, env: Any, params: Any, twin: bool) -> TrainResult:
    name = on_demand_policies.PUBLISHED
    config = dataclasses.replace(
        on_demand_run.FULL.learners[name],
        n_evaluations=120,
        updates_per_evaluation=20,
        n_envs=8,
        n_steps=1,
        n_batches=4,
        evaluation_envs=256,
        twin=twin,
    )
    learner = on_demand_policies.LEARNERS[name]
    return learner.train(keys, params, look_up(env, params), env, config)


def _fleet(keys: jax.Array, env: Any, params: Any, twin: bool) -> TrainResult:
    name = fleet_policies.BEST if twin else fleet_policies.WITHOUT_TWIN
    config = dataclasses.replace(fleet_run.FULL.config, **_SHORT, n_envs=8)
    return fleet_policies.LEARNERS[name].train(keys, params, env, config)


_TRAININGS = {"stopping": _stopping, "on-demand": _on_demand, "fleet": _fleet}


def compare(name: str, seeds: int) -> dict[str, Any]:
    """Trains on a scenario with the twin and without; returns what both needed."""
    scenario = registry.load_scenario(name)
    env, params = make_world(scenario, TRAIN_DRAW)
    keys = jax.random.split(key_of(0, LEARN), seeds)
    learned = {twin: _TRAININGS[scenario.system](keys, env, params, twin) for twin in (True, False)}
    curves = {twin: np.asarray(one.curve, np.float64) for twin, one in learned.items()}
    steps = np.asarray(learned[True].steps)[0]
    ends = {twin: float(one[:, -_WINDOW:].mean()) for twin, one in curves.items()}
    first = float(np.mean([one[:, 0].mean() for one in curves.values()]))
    level = min(ends.values()) - 0.05 * max(min(ends.values()) - first, 0.0)
    needed = {
        twin: np.array([first_lasting(curve, steps, level, _WINDOW) for curve in one])
        for twin, one in curves.items()
    }
    means = {twin: float(np.nanmean(one)) for twin, one in needed.items() if np.isfinite(one).any()}
    return {
        "scenario": name,
        "system": scenario.system,
        "seeds": seeds,
        "first": first,
        "with_twin": ends[True],
        "without": ends[False],
        "level": level,
        "steps_with_twin": means.get(True),
        "steps_without": means.get(False),
        "not_reached_with_twin": int(np.isnan(needed[True]).sum()),
        "not_reached_without": int(np.isnan(needed[False]).sum()),
        "times_fewer": means[False] / means[True] if len(means) == 2 else None,
    }


def main() -> None:
    """Compares on every scenario that is named."""
    shipped = [name for name in registry.list_scenarios() if _system(name) in _TRAININGS]
    command = parser(__doc__)
    command.add_argument("--scenario", nargs="+", default=shipped, choices=shipped, metavar="NAME")
    command.add_argument("--seeds", type=int, default=5)
    options = command.parse_args()
    for name in options.scenario:
        record("twin", compare(name, options.seeds))


def _system(name: str) -> str:
    return registry.load_scenario(name).system


if __name__ == "__main__":
    main()
