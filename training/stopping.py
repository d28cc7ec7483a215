"""`stopping` at full length: what reports are worth, other algorithms, and what pruning saves.
Tables of all policies: `training.results`; what the twin is worth: `training.twin`.

    python -m training.stopping status-reports [--scenario reference wifi] [--rows 24] [--slots N]
    python -m training.stopping algorithms [--scenario reference-busy campus-pi] [--rows 48]
    python -m training.stopping pruning [--scenario camera ...]

All take --seed. `status-reports` measures what reports to the server are worth, at thresholds of
the status twin from 0 to infinity, while the learner of differential values decides on what the
server believes. `algorithms` compares that learner with proximal policy optimisation, which learns
from the actions taken, at several discounts. `pruning` counts the choices that the twin rules out
before the server is asked, after a replay and at a decision.
"""

import dataclasses
import time
from typing import Any

import jax

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.data import processes
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, PLAY, TRAIN_DRAW, key_of
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping import baselines, differential_value
from jaxcoinfer.systems.stopping import status_reports as reports
from jaxcoinfer.systems.stopping.scenario import StoppingScenario
from jaxcoinfer.systems.stopping.twin import pruning
from training.common import make_world, parser, record, rounded

_SCENARIOS = {
    "status-reports": ["reference", "wifi"],
    "algorithms": ["reference-busy", "campus-pi"],
    "pruning": ["camera", "reference", "reference-busy", "wifi", "campus-pi", "office-bursts"],
}


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


def pruned(scenario: StoppingScenario, seed: int) -> None:
    """Appends a line: shares of choices that are ruled out."""
    env, params = make_world(scenario, HELD_OUT, seed)
    after_replay, at_decision = pruning.shares(key_of(seed, PLAY), params, env=env)
    shares = {"after_replay": float(after_replay), "at_decision": float(at_decision)}
    record("pruning", {"scenario": scenario.name, "seed": seed} | shares)


def main() -> None:
    """Runs one of the recipes."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=list(_SCENARIOS))
    command.add_argument("--scenario", nargs="+")
    command.add_argument("--rows", type=int, default=24)
    command.add_argument("--slots", type=int)
    command.add_argument("--seed", type=int, default=0)
    options = command.parse_args()
    for name in options.scenario or _SCENARIOS[options.recipe]:
        scenario = registry.load_scenario(name)
        endless = isinstance(scenario.rate, processes.ConstantRate)  # a recorded link ends
        slots = options.slots or (400_000 if endless else scenario.slots)
        if options.recipe == "pruning":
            pruned(scenario, options.seed)
        elif options.recipe == "algorithms":
            algorithms(scenario, options.rows, slots, options.seed)
        else:
            status_reports(scenario, options.rows, slots, options.seed)


if __name__ == "__main__":
    main()
