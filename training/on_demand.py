"""`on-demand` at full length: every policy on the shipped scenarios, what the twin is worth, and
how rare misses are.

    python -m training.on_demand table [--scenario on-demand-markov ...] [--rows 96] [--seeds 5]
    python -m training.on_demand samples [--scenario on-demand-markov ...] [--seeds 5]
    python -m training.on_demand reliability [--scenario on-demand-markov ...] [--tasks 1000000]

`table` trains every learner from several seeds on one draw, then runs all policies on the same
held-out rows: one line per policy, and for a learner one per seed. `samples` counts the steps soft
actor-critic needs, with the twin and without it, until its reward stays at 97 % of the exact
optimum. `reliability` runs the first seed's learners and their baselines until the rarest class has
had --tasks tasks, and reports the share of late ones by class.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np

import jaxcoinfer
from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, PLAY, TRAIN_DRAW, key_of, play
from jaxcoinfer.evaluation.seeds import pick
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.on_demand import misses
from jaxcoinfer.systems.on_demand import run as runs
from jaxcoinfer.systems.on_demand.baselines import best_fixed
from jaxcoinfer.systems.on_demand.bound import Solution, solve
from jaxcoinfer.systems.on_demand.env import OnDemand
from jaxcoinfer.systems.on_demand.params import Params
from jaxcoinfer.systems.on_demand.policies import (
    BEST,
    EXACT,
    EXACT_MEMORY,
    LEARNERS,
    baseline_policies,
    play_learners,
)
from jaxcoinfer.systems.on_demand.scenario import OnDemandScenario
from training.common import make_world, parser, record, rounded
from training.curves import first_lasting

_SHIPPED = [name for name in registry.list_scenarios() if name.startswith("on-demand")]
_CHAINS = ["on-demand-markov", "on-demand-5g", "on-demand-outages"]
_SCENARIOS = {"table": _SHIPPED, "samples": _CHAINS, "reliability": ["on-demand-markov"]}
_WIDE_ROWS = 1024  # of a draw in which late tasks are counted: all step side by side
_NEAR = 0.97  # of the exact optimum
_COMPARED = ("neurosurgeon", "edgent", "best fixed action", "greedy", EXACT, EXACT_MEMORY)


def table(scenario: OnDemandScenario, rows: int, seeds: int) -> None:
    """Appends one line per policy and seed: utility, its share of the optimum, paired differences
    to the baselines.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    solution = solve(scenario, env, params)
    _, held_out = make_world(dataclasses.replace(scenario, rows=rows), HELD_OUT)
    others = baseline_policies(env, best_fixed(env, params), solution)
    baselines = {
        name: one for name, (one,) in play(env, others, [held_out], key_of(0, PLAY)).items()
    }
    facts = {"recipe": "table", "scenario": scenario.name, "rows": rows, "slots": scenario.slots}
    for name, tasks in baselines.items():
        record(
            "on_demand", facts | {"policy": name} | _measures(tasks, held_out, baselines, solution)
        )
    for name in LEARNERS:
        policies, seconds = _learn(name, env, params, seeds)
        for seed, policy in enumerate(policies):
            (tasks,) = play_learners(env, {name: policy}, held_out, key_of(0, PLAY))[name]
            line = facts | {"policy": name, "seed": seed, "seconds_of_all_seeds": round(seconds, 1)}
            record("on_demand", line | _measures(tasks, held_out, baselines, solution))


def samples(scenario: OnDemandScenario, seeds: int) -> None:
    """Appends one line per seed: steps until the reward stays at 97 % of the exact optimum, with
    twin and without.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    solution = solve(scenario, env, params)
    if solution is None:
        raise SystemExit(f"{scenario.name}: its exact optimum is not known")
    # Few steps between batches, so that it is steps that are scarce.
    config = dataclasses.replace(
        runs.FULL.learners[BEST],
        n_envs=8,
        n_steps=1,
        n_batches=4,
        updates_per_evaluation=20,
        n_evaluations=100,
        evaluation_envs=256,
        evaluation_steps=200,
    )
    needed = {}
    for twin in (True, False):
        chosen = dataclasses.replace(config, twin=twin)
        learned = LEARNERS[BEST].train(
            jax.random.split(key_of(0, LEARN), seeds), params, env, chosen
        )
        curves, steps = np.asarray(learned.curve), np.asarray(learned.steps)
        needed[twin] = [
            first_lasting(c, s, _NEAR * solution.gain) for c, s in zip(curves, steps, strict=True)
        ]
    for seed, (with_twin, without) in enumerate(zip(needed[True], needed[False], strict=True)):
        line = {
            "recipe": "samples",
            "scenario": scenario.name,
            "seed": seed,
            "share_of_optimum": _NEAR,
        }
        line |= {
            "steps_with_twin": with_twin,
            "steps_without": without,
            "steps_at_most": int(steps[0, -1]),
        }
        record("on_demand", line)


def reliability(scenario: OnDemandScenario, n_tasks: int) -> None:
    """Appends one line per policy and class: the share of late tasks among at least n_tasks of the
    class, and its time.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    others = baseline_policies(env, best_fixed(env, params), solve(scenario, env, params))
    policies = {
        name: (LEARNERS[name].env(env), _learn(name, env, params, 1)[0][0]) for name in LEARNERS
    }
    policies |= {name: (env, policy) for name, policy in others.items()}
    rarest = min(c.share for c in scenario.classes)
    wide = dataclasses.replace(scenario, rows=_WIDE_ROWS)
    n_draws = int(np.ceil(1.02 * n_tasks / (rarest * wide.rows * wide.slots)))
    keys = jax.random.split(key_of(0, HELD_OUT), n_draws)
    for name, (its_env, policy) in policies.items():
        begin_s = time.perf_counter()
        counted = jax.jit(partial(misses.count, its_env, policy=policy))
        parts = [
            counted(
                params=jaxcoinfer.make(wide, key, split="eval")[1],
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


def _learn(name: str, env: OnDemand, params: Params, seeds: int) -> tuple[list[Policy], float]:
    """The greedy policy of each seed, and the seconds that all took to learn."""
    learner, config, begin_s = LEARNERS[name], runs.FULL.learners[name], time.perf_counter()
    learned = learner.train(jax.random.split(key_of(0, LEARN), seeds), params, env, config)
    weights = [pick(learned.weights, seed) for seed in range(seeds)]
    return [learner.policy(env, config, one) for one in weights], time.perf_counter() - begin_s


def _measures(
    tasks: Tasks, params: Params, baselines: Mapping[str, Tasks], solution: Solution | None
) -> dict[str, float | None]:
    """Utility, its difference to that of each baseline, and its share of what the exact optimum
    achieves on the same rows.
    """
    intervals = {"utility": evaluate.interval(evaluate.by_row(tasks, tasks.utility))}
    compared = [name for name in _COMPARED if name in baselines]
    intervals |= {
        f"above_{name.replace(' ', '_')}": evaluate.difference(tasks, baselines[name])
        for name in compared
    }
    line: dict[str, float | None] = {**rounded(intervals, 5)}
    if solution is not None:
        best = EXACT_MEMORY if EXACT_MEMORY in baselines else EXACT
        line["share_of_exact"] = round(
            float(tasks.utility.mean() / baselines[best].utility.mean()), 5
        )
        line["computed_exact"] = solution.gain_history
    classes = misses.miss_ratios(tasks, params)
    return line | {f"late_{kind}": ratio.mean for kind, ratio in enumerate(classes)}


def main() -> None:
    """Runs one of the recipes."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=list(_SCENARIOS))
    command.add_argument("--scenario", nargs="+")
    command.add_argument("--rows", type=int, default=96)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--tasks", type=int, default=1_000_000)
    options = command.parse_args()
    for name in options.scenario or _SCENARIOS[options.recipe]:
        scenario = registry.load_scenario(name)
        if options.recipe == "table":
            table(scenario, options.rows, options.seeds)
        elif options.recipe == "samples":
            samples(scenario, options.seeds)
        else:
            reliability(scenario, options.tasks)


if __name__ == "__main__":
    main()
