"""`on-demand` at full length: how rare late tasks are. Tables of all policies: `training.results`;
what the twin is worth: `training.twin`.

    python -m training.on_demand reliability [--scenario on-demand-markov ...] [--tasks 1000000]
        [--policies "reliable table" greedy ...]

`reliability` runs the first seed's learners and their baselines until the rarest class has had
--tasks tasks, and reports the share of late ones by class.
"""

import dataclasses
import time
from functools import partial

import jax
import numpy as np

import jaxcoinfer
from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, PLAY, TRAIN_DRAW, TUNE, key_of
from jaxcoinfer.evaluation.seeds import pick
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import misses
from jaxcoinfer.systems.on_demand import run as runs
from jaxcoinfer.systems.on_demand.bound import solve
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.lookup import LookUp, look_up
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.policies import (
    LEARNERS,
    baseline_policies,
    choose,
)
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario
from training.common import make_world, parser, record

_WIDE_ROWS = 1024  # of a draw in which late tasks are counted: all step side by side


def reliability(scenario: OnDemandScenario, n_tasks: int, names: list[str] | None) -> None:
    """Appends one line per policy and class: the share of late tasks among at least n_tasks of the
    class, and its time.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    targets = [c.target_miss_ratio for c in scenario.classes]
    chosen = choose(env, params, look_up(env, params), targets, key_of(0, TUNE))
    others = baseline_policies(env, chosen, solve(scenario, env, params))
    policies = {
        name: (LEARNERS[name].env(env), _learn(name, env, params, chosen.table))
        for name in LEARNERS
        if names is None or name in names
    }
    policies |= {
        name: (env, policy) for name, policy in others.items() if names is None or name in names
    }
    rarest = min(c.share for c in scenario.classes)
    wide = dataclasses.replace(scenario, rows=_WIDE_ROWS)
    n_draws = int(np.ceil(1.02 * n_tasks / (rarest * wide.rows * wide.slots)))
    keys = jax.random.split(key_of(0, HELD_OUT), n_draws)
    for name, (its_env, policy) in policies.items():
        begin_s = time.perf_counter()
        counted = jax.jit(partial(misses.count, its_env, policy=policy))
        parts = [
            counted(
                params=jaxcoinfer.make(wide, key, split="test")[1],
                key=jax.random.fold_in(key, PLAY),
            )
            for key in keys
        ]
        late, count = (
            np.concatenate(several).astype(np.int64) for several in zip(*parts, strict=True)
        )
        seconds = time.perf_counter() - begin_s
        for c, ratio in zip(scenario.classes, misses.ratios(late, count), strict=True):
            line = {
                "recipe": "reliability",
                "scenario": scenario.name,
                "policy": name,
                "class": c.name,
            }
            line |= {
                "target": c.target_miss_ratio,
                **dataclasses.asdict(ratio),
                "seconds": round(seconds, 1),
            }
            record("on_demand", line)


def _learn(name: str, env: OnDemand, params: Params, table: LookUp) -> Policy:
    """The greedy policy of the first seed."""
    learner, config = LEARNERS[name], runs.FULL.learners[name]
    learned = learner.train(key_of(0, LEARN)[None], params, table, env, config)
    every = learner.learned(env, config, learned.weights, table)
    return every.policy(pick(every.weights, 0))


def main() -> None:
    """Runs the recipe."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=["reliability"])
    command.add_argument("--scenario", nargs="+", default=["on-demand-markov"])
    command.add_argument("--tasks", type=int, default=1_000_000)
    command.add_argument("--policies", nargs="+", help="default: all")
    options = command.parse_args()
    for name in options.scenario:
        reliability(registry.load_scenario(name), options.tasks, options.policies)


if __name__ == "__main__":
    main()
