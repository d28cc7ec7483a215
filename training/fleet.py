"""`fleet` at full length: every policy on the shipped scenarios, the time of a decision, and how it
grows with the number of devices.

    python -m training.fleet table [--scenario fleet ...] [--rows 32] [--slots 64] [--seeds 5]
    python -m training.fleet speed [--scenario fleet]
    python -m training.fleet scale [--scenario fleet] [--devices 64 512 4096]

`table` trains the price network from several seeds on one draw, then runs all policies on the same
held-out rows, with as many devices as in training, a quarter and four times as many: one line per
policy, and for the learner one per seed. `speed` times a decision of the trained network, of
alternating optimisation and of dual recovery for 64 devices, of one slot and of 64 slots at once.
`scale` times a step and an update of the training.
"""

import dataclasses
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, TRAIN_DRAW, key_of
from jaxcoinfer.evaluation.seeds import pick
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import network as fleet_network
from jaxcoinfer.systems.fleet import report
from jaxcoinfer.systems.fleet import run as runs
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.policies import (
    BEST,
    COMPARED,
    LEARNERS,
    REFERENCE,
    EnvPolicy,
    baseline_policies,
)
from jaxcoinfer.systems.fleet.scenario import FleetScenario
from training.common import make_world, measure, parser, record, rounded

_SHIPPED = ("fleet", "fleet-cloud")
_TIMED_DEVICES, _TIMED_SLOTS = 64, 64


def table(scenario: FleetScenario, rows: int, slots: int, seeds: int) -> None:
    """Appends one line per policy, seed and number of devices: cost, gap to the bound, paired
    differences.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    begin_s = time.perf_counter()
    hidden = runs.FULL.config.hidden
    learned = LEARNERS[BEST].train(
        jax.random.split(key_of(0, LEARN), seeds), params, env, runs.FULL.config
    )
    seconds = time.perf_counter() - begin_s
    seed_of = {f"{BEST} {seed}": seed for seed in range(seeds)}
    weights = {name: pick(learned.weights, seed) for name, seed in seed_of.items()}

    def policies(env: Fleet) -> dict[str, EnvPolicy]:
        trained = {name: LEARNERS[BEST].policy(env, hidden, one) for name, one in weights.items()}
        others = baseline_policies(env)
        return trained | {name: others[name] for name in others if name != REFERENCE}

    numbers = [max(scenario.devices // 4, 1), scenario.devices, 4 * scenario.devices]
    worlds = [
        make_world(dataclasses.replace(scenario, devices=devices, rows=rows, slots=slots), HELD_OUT)
        for devices in numbers
    ]
    facts = {
        "recipe": "table",
        "scenario": scenario.name,
        "trained_at": scenario.devices,
        "rows": rows,
        "slots": slots,
    }
    facts |= {"seconds_of_all_seeds": round(seconds, 1)}
    for devices, costs, certified in zip(
        numbers, report.costs(worlds, policies), report.certified_costs(worlds), strict=True
    ):
        costs = {**costs, REFERENCE: certified[REFERENCE]}
        for name, cost in costs.items():
            policy = (
                {"policy": BEST, "seed": seed_of[name]} if name in seed_of else {"policy": name}
            )
            measures = _measures(cost, costs, certified[report.BOUND])
            record("fleet", facts | {"devices": devices} | policy | measures)


def speed(scenario: FleetScenario) -> None:
    """Appends one line per policy: seconds of a decision for 64 devices, alone and of 64 slots at
    once, and the ratio to the trained network's, all in one run.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    config = dataclasses.replace(runs.FULL.config, n_evaluations=4)
    learned = LEARNERS[BEST].train(key_of(0, LEARN)[None], params, env, config)
    weights = pick(learned.weights, 0)
    wide, world = make_world(
        dataclasses.replace(scenario, devices=_TIMED_DEVICES, rows=_TIMED_SLOTS, slots=16), HELD_OUT
    )
    others = baseline_policies(wide)
    timed = {BEST: LEARNERS[BEST].policy(wide, config.hidden, weights)}
    timed |= {name: others[name] for name in (COMPARED, REFERENCE)}
    rows = jnp.arange(_TIMED_SLOTS, dtype=jnp.int32)
    states, timesteps = jax.vmap(wide.reset_at, (0, None, None))(rows, jnp.int32(8), world)
    first = pick((states, timesteps.observation), 0)
    lines = {}
    for name, (_, policy) in timed.items():

        def decide(
            state: Any, observation: jax.Array, params: Any, policy: Policy = policy
        ) -> jax.Array:
            return policy(jax.random.key(0), state, observation, params)

        one = measure(name, decide, *first, world)["median_s"]
        many = measure(name, jax.vmap(decide, (0, 0, None)), states, timesteps.observation, world)[
            "median_s"
        ]
        lines[name] = {"one_at_a_time_s": one, "batched_s": many / _TIMED_SLOTS}
    for name, line in lines.items():
        ratios = {
            f"times_network_{what}": value / lines[BEST][what] for what, value in line.items()
        }
        facts = {
            "recipe": "speed",
            "scenario": scenario.name,
            "devices": _TIMED_DEVICES,
            "slots_at_once": _TIMED_SLOTS,
        }
        record("fleet", facts | {"policy": name} | line | ratios)


def scale(scenario: FleetScenario, devices: list[int]) -> None:
    """Appends one line per number of devices: seconds of a step and of an update, per device, and
    peak resident memory.
    """
    for number in sorted(devices):  # the peak memory is that of the whole process so far
        env, params = make_world(
            dataclasses.replace(scenario, devices=number, rows=2, slots=16), TRAIN_DRAW
        )
        state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
        choice = jnp.full(number, env.on_device(0), jnp.int32)
        stepped = measure("step", env.step, state, choice, params)
        n_envs = max(512 // number, 2)
        config = dataclasses.replace(
            runs.FULL.config, n_envs=n_envs, n_evaluations=1, evaluation_envs=1, evaluation_steps=1
        )

        def train(
            key: jax.Array, params: Any, env: Fleet = env, config: ppo.Config = config
        ) -> TrainResult:
            hyper = ppo.Hyper(learning_rate=1e-2)
            return ppo.train(
                key, params, hyper, env=env, config=config, outcomes=fleet_network.outcomes
            )

        trained = measure("updates", train, key_of(0, LEARN), params, repeats=3)
        n_learned = config.n_envs * config.n_steps * config.updates_per_evaluation * number
        line = {"recipe": "scale", "scenario": scenario.name, "devices": number, "n_envs": n_envs}
        line |= {"step_s": stepped["median_s"], "step_s_per_device": stepped["median_s"] / number}
        line |= {"updates": config.updates_per_evaluation, "updates_s": trained["median_s"]}
        line |= {
            "compile_s": trained["compile_s"],
            "learning_s_per_device_step": trained["median_s"] / n_learned,
        }
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        record("fleet", line | {"peak_resident_mib": round(peak_mib)})


def _measures(cost: np.ndarray, costs: report.Costs, bound: np.ndarray) -> dict[str, float]:
    """Cost per task, its share above the bound, and how far it is below the costs of the strongest
    baselines, paired by rows.
    """
    intervals = {
        "cost": evaluate.interval(cost),
        "gap_ratio": evaluate.interval(cost / bound - 1.0),
    }
    for baseline in (COMPARED, "equal shares", REFERENCE):
        intervals[f"below_{baseline.replace(' ', '_')}"] = evaluate.interval(costs[baseline] - cost)
    return rounded(intervals, 6)


def main() -> None:
    """Runs one of the recipes."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=["table", "speed", "scale"])
    command.add_argument("--scenario", nargs="+")
    command.add_argument("--rows", type=int, default=32)
    command.add_argument("--slots", type=int, default=64)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--devices", type=int, nargs="+", default=[64, 512, 4096])
    options = command.parse_args()
    for name in options.scenario or (_SHIPPED if options.recipe == "table" else _SHIPPED[:1]):
        scenario = registry.load_scenario(name)
        if options.recipe == "table":
            table(scenario, options.rows, options.slots, options.seeds)
        elif options.recipe == "speed":
            speed(scenario)
        else:
            scale(scenario, options.devices)


if __name__ == "__main__":
    main()
