"""`stopping` at full length: what the twin is worth in tasks, what reports are worth, and other
algorithms. Tables of all policies: `training.results`.

    python -m training.stopping samples [--scenario reference-busy] [--seeds 5]
    python -m training.stopping status-reports [--scenario reference wifi] [--rows 24] [--slots N]
    python -m training.stopping algorithms [--scenario reference-busy campus-pi] [--rows 48]

All but `samples` take --seed. `samples` counts the tasks a
learner needs, with the twin and without it, until it is as good as greedy with waiting cost.
`status-reports` measures what reports to the server are worth, at thresholds of the status twin
from 0 to infinity, while the learner of differential values decides on what the server believes.
`algorithms` compares that learner with proximal policy optimisation, which learns from the actions
taken, at several discounts.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data import processes
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, PLAY, TRAIN_DRAW, key_of
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines, continuation_value, differential_value
from jaxcoinfer.systems.stopping import status_reports as reports
from jaxcoinfer.systems.stopping.env import Stopping
from jaxcoinfer.systems.stopping.scenario import StoppingScenario
from jaxcoinfer.systems.stopping.twin import workload
from jaxcoinfer.systems.stopping.twin.rollout import mean_utility
from training.common import make_world, parser, record, rounded
from training.curves import first_lasting

_SCENARIOS = {
    "samples": ["reference-busy"],
    "status-reports": ["reference", "wifi"],
    "algorithms": ["reference-busy", "campus-pi"],
}


def samples(scenario: StoppingScenario, seeds: int) -> None:
    """Appends one line per seed: tasks until the learner's utility stays at that of greedy with
    waiting cost.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    config = continuation_value.Config(
        n_devices=16,
        n_evaluations=250,
        updates_per_evaluation=4,
        evaluation_devices=256,
        evaluation_tasks=100,
    )
    goal = _utility_of_waiting(env, params, config)
    for seed in range(seeds):
        needed = {}
        for twin in (True, False):
            chosen = dataclasses.replace(config, twin=twin)
            key = key_of(seed, LEARN)
            learned = continuation_value.train(
                key, params, continuation_value.Hyper(), env=env, config=chosen
            )
            needed[twin] = first_lasting(
                np.asarray(learned.curve), np.asarray(learned.steps), goal(key)
            )
        line = {"scenario": scenario.name, "seed": seed, "tasks_with_twin": needed[True]}
        line |= {"tasks_without": needed[False], "times_fewer": needed[False] / needed[True]}
        record("samples", line)


def status_reports(scenario: StoppingScenario, rows: int, slots: int, seed: int) -> None:
    """Appends one line per way of reporting to the server and threshold: messages, utility, and its
    gain on full reports.
    """
    env, params = make_world(scenario, TRAIN_DRAW, seed)
    config = differential_value.Config()
    learned = differential_value.train(
        key_of(seed, LEARN), params, differential_value.Hyper(), env=env, config=config
    )
    long = dataclasses.replace(scenario, rows=rows, slots=slots)
    policy = differential_value.policy(env, config, learned.weights)
    for point in reports.measure(long, policy, key_of(seed, HELD_OUT), key_of(seed, PLAY)):
        line = {
            "scenario": scenario.name,
            "seed": seed,
            "rows": rows,
            "slots": slots,
            "way": point.way,
        }
        line |= {"threshold_slots": point.threshold_slots}
        names = ("reports", "commands", "utility", "gain")
        intervals = {name: getattr(point, name) for name in names}
        record("status_reports", line | rounded(intervals, 4))


def algorithms(scenario: StoppingScenario, rows: int, slots: int, seed: int) -> None:
    """Appends one line per algorithm: seconds and steps of learning, utility, and its gain on
    greedy with waiting cost.
    """
    env, params = make_world(scenario, TRAIN_DRAW, seed)
    long = dataclasses.replace(scenario, rows=rows, slots=slots)
    _, held_out = make_world(long, HELD_OUT, seed)
    proximal = ppo.Config(
        hidden=(64, 64),
        twin=False,
        n_envs=512,
        n_steps=128,
        n_batches=16,
        updates_per_evaluation=4,
        n_evaluations=15,
        evaluation_steps=1000,
    )
    learners: dict[str, tuple[Any, Any, Any]] = {
        "differential value": (
            differential_value,
            differential_value.Config(),
            differential_value.Hyper(),
        )
    }
    for discount in (0.9, 0.99, 0.998):
        learners[f"proximal policy {discount}"] = (
            ppo,
            proximal,
            ppo.Hyper(discount=discount, entropy_weight=0.01),
        )
    policies: dict[str, Policy] = {"one-time waiting": baselines.one_time_waiting(env)}
    learning = {}
    for name, (module, config, hyper) in learners.items():
        begin = time.perf_counter()
        learned = jax.block_until_ready(
            module.train(key_of(seed, LEARN), params, hyper, env=env, config=config)
        )
        learning[name] = {
            "train_s": round(time.perf_counter() - begin, 1),
            "steps": int(learned.steps[-1]),
        }
        policies[name] = module.policy(env, config, learned.weights)
    played = evaluate.evaluate(env, held_out, policies, key_of(seed, PLAY))
    for name, tasks in played.items():
        line = {
            "scenario": scenario.name,
            "seed": seed,
            "rows": rows,
            "slots": slots,
            "algorithm": name,
        }
        line |= learning.get(name, {})
        compared = {"utility": evaluate.interval(evaluate.by_row(tasks, tasks.utility))}
        compared["above_waiting"] = evaluate.difference(tasks, played["one-time waiting"])
        record("algorithms", line | rounded(compared, 4))


def _utility_of_waiting(
    env: Stopping, params: Any, config: continuation_value.Config
) -> Callable[[jax.Array], Any]:
    """Returns a function key -> mean utility of greedy with waiting cost on the states on which
    `continuation_value.train` evaluates with that key.
    """

    @jax.jit
    def utility(key: jax.Array) -> jax.Array:
        key_test = jax.random.split(key, 4)[2]  # as in `continuation_value.train`
        keys = jax.random.split(key_test, config.evaluation_devices)
        states, _ = jax.vmap(env.reset, (0, None))(keys, params)

        def choose(replay: workload.Replay) -> jax.Array:
            start = jax.tree.map(lambda leaf: leaf[0], replay.states)
            return jnp.argmax(workload.forecast(env, start, params).value).astype(jnp.int32)

        return mean_utility(env, choose, states, params, config.evaluation_tasks)

    return utility


def main() -> None:
    """Runs one of the recipes."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=list(_SCENARIOS))
    command.add_argument("--scenario", nargs="+")
    command.add_argument("--rows", type=int, default=24)
    command.add_argument("--slots", type=int)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--seeds", type=int, default=5)
    options = command.parse_args()
    for name in options.scenario or _SCENARIOS[options.recipe]:
        scenario = registry.load_scenario(name)
        if options.recipe == "samples":
            samples(scenario, options.seeds)
        else:
            endless = isinstance(scenario.rate, processes.ConstantRate)  # a recorded link ends
            slots = options.slots or (400_000 if endless else scenario.slots)
            recipe = {"status-reports": status_reports, "algorithms": algorithms}[options.recipe]
            recipe(scenario, options.rows, slots, options.seed)


if __name__ == "__main__":
    main()
