"""`multi-user` at full length: proximal policy with split, channel and power and its baselines, on
the same episodes.

    python -m training.multi_user table [--scenario multi-user] [--rows 256] [--seeds 5]

`table` trains from several seeds on one draw of starts, then runs all policies on the same held-out
starts until every user is free: one line per policy, for the learner one per seed. `reward`: sum
over the slots of an episode; `cost`, per task: seconds from beginning to end of the episode plus
beta joules, with its parts `delay_s` and `energy_j`. The next columns are differences to the
baselines, paired by episodes. `test_...`: the same in the authors' test, one episode in which all
users are alike.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, PLAY, TRAIN_DRAW, key_of
from jaxcoinfer.evaluation.seeds import pick
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.multi_user.evaluation import Episodes, best_fixed, first_starts, play
from jaxcoinfer.systems.multi_user.exogenous import alike
from jaxcoinfer.systems.multi_user.policies import (
    BEST,
    CONFIG,
    baseline_policies,
    learned_policy,
    train_once,
)
from jaxcoinfer.systems.multi_user.report import per_task
from jaxcoinfer.systems.multi_user.scenario import MultiUserScenario
from training.common import make_world, parser, record, rounded

_TEST_M = 50.0  # distance of every user in the authors' test


def table(scenario: MultiUserScenario, rows: int, seeds: int) -> None:
    """Appends one line per policy and seed: reward, cost per task, paired differences to the
    baselines.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    held_out = first_starts(make_world(scenario, HELD_OUT)[1], rows)
    test = params.replace(bank=alike(env.n_users, _TEST_M, round(scenario.tasks), env.n_splits - 1))
    begin_s = time.perf_counter()
    # Side by side, unlike in a run: on a GPU that is faster.
    train = jax.vmap(partial(train_once, params=params, env=env, config=CONFIG))
    learned = jax.block_until_ready(train(jax.random.split(key_of(0, LEARN), seeds)))
    seconds = time.perf_counter() - begin_s
    key = key_of(0, PLAY)
    policies: dict[str, Policy] = baseline_policies(env, best_fixed(env, params, key))
    baselines = tuple(policies)
    seed_of = {f"{BEST} {seed}": seed for seed in range(seeds)}
    for name, seed in seed_of.items():
        policies[name] = learned_policy(env, CONFIG, pick(learned.weights, seed))
    episodes, tests = play(env, policies, held_out, key), play(env, policies, test, key)
    others = {name: episodes[name] for name in baselines}
    for name in policies:
        line: dict[str, Any] = {"recipe": "table", "scenario": scenario.name, "rows": rows}
        if name in seed_of:
            seed = seed_of[name]
            line |= {"policy": BEST, "seed": seed, "seconds_of_all_seeds": round(seconds, 1)}
            line |= {"slots_learned": int(learned.steps[seed, -1])}
        else:
            line |= {"policy": name}
        line |= _measures(episodes[name], others, scenario)
        record("multi_user", line | _test_measures(tests[name], scenario))


def _measures(
    episodes: Episodes, others: Mapping[str, Episodes], scenario: MultiUserScenario
) -> dict[str, float]:
    """Reward, cost and its parts, and the reward above and the cost below that of each baseline,
    with half widths.
    """
    task = per_task(episodes, scenario)
    values = {"reward": episodes.reward, "cost": task.cost}
    values |= {"delay_s": task.delay_s, "energy_j": task.energy_j}
    for name, other in others.items():
        values[f"reward_above_{name.replace(' ', '_')}"] = episodes.reward - other.reward
        values[f"cost_below_{name.replace(' ', '_')}"] = per_task(other, scenario).cost - task.cost
    line = rounded({name: evaluate.interval(value) for name, value in values.items()}, 6)
    return line | {"ended": float(episodes.ended.mean())}


def _test_measures(episodes: Episodes, scenario: MultiUserScenario) -> dict[str, float]:
    """Reward and the parts of the cost in the only episode of the authors' test."""
    task = per_task(episodes, scenario)
    values = {"reward": episodes.reward, "delay_s": task.delay_s, "energy_j": task.energy_j}
    return {f"test_{name}": round(float(value[0]), 6) for name, value in values.items()}


def main() -> None:
    """Runs the recipe."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=["table"])
    command.add_argument("--scenario", nargs="+", default=["multi-user"])
    command.add_argument("--rows", type=int, default=256)
    command.add_argument("--seeds", type=int, default=5)
    options = command.parse_args()
    for name in options.scenario:
        table(registry.load_scenario(name), options.rows, options.seeds)


if __name__ == "__main__":
    main()
