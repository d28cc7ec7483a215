"""`fleet` at full length: every policy on the shipped scenarios, what a decision takes, and how it
grows with devices.

    python -m training.fleet table [--scenario fleet ...] [--rows 32] [--slots 64] [--seeds 5]
    python -m training.fleet speed [--scenario fleet]
    python -m training.fleet scale [--scenario fleet] [--devices 64 512 4096]

`table` trains the price network from several seeds on one draw, then runs all policies on the same
held-out rows, at the number of devices that was trained at, at a quarter and at four times as many:
a line a policy, and for the learner one a seed. `speed` times a decision of the trained network, of
alternating optimisation and of dual recovery for 64 devices, of one slot and of 64 slots at once.
`scale` times a step and an update of the training.
"""

import argparse
import dataclasses
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxcoinfer
from benchmarks.harness import measure, record
from jaxcoinfer.evaluation import evaluate
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import network as fleet_actor
from jaxcoinfer.systems.fleet import report
from jaxcoinfer.systems.fleet import run as runs
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import BEST, COMPARED, LEARNERS, REFERENCE, baseline_policies
from jaxcoinfer.systems.fleet.scenario import FleetScenario

_SHIPPED = ("fleet", "fleet-cloud")
_TIMED_DEVICES, _TIMED_SLOTS = 64, 64
TRAIN, LEARN, HELD_OUT = range(3)  # purposes of keys


def table(scenario: FleetScenario, rows: int, slots: int, seeds: int) -> None:
    """Appends one line a policy, seed and number of devices: cost, gap to the bound, paired
    differences.
    """
    env, params = _world(scenario, TRAIN)
    begin_s = time.perf_counter()
    hidden = runs.FULL.config.hidden
    learned = LEARNERS[BEST].train(
        jax.random.split(_key(LEARN), seeds), params, env, runs.FULL.config
    )
    seconds = time.perf_counter() - begin_s
    named = {f"{BEST} {s}": s for s in range(seeds)}
    of_seed = {
        name: jax.tree.map(lambda leaf, s=s: leaf[s], learned.weights) for name, s in named.items()
    }

    def policies(env):
        return {name: LEARNERS[BEST].policy(env, hidden, one) for name, one in of_seed.items()} | {
            name: one for name, one in baseline_policies(env).items() if name != REFERENCE
        }

    numbers = [max(scenario.devices // 4, 1), scenario.devices, 4 * scenario.devices]
    worlds = [
        _world(dataclasses.replace(scenario, devices=devices, rows=rows, slots=slots), HELD_OUT)
        for devices in numbers
    ]
    told = {
        "recipe": "table",
        "scenario": scenario.name,
        "trained_at": scenario.devices,
        "rows": rows,
        "slots": slots,
    }
    told |= {"seconds_of_all_seeds": round(seconds, 1)}
    for devices, others, least in zip(
        numbers, report.costs(worlds, policies), report.certified_costs(worlds), strict=True
    ):
        of_all = {**others, REFERENCE: least[REFERENCE]}
        for name, cost in of_all.items():
            line = {"devices": devices} | (
                {"policy": BEST, "seed": named[name]} if name in named else {"policy": name}
            )
            record("fleet", told | line | _measures(cost, of_all, least[report.BOUND]))


def speed(scenario: FleetScenario) -> None:
    """Appends one line a policy: seconds of a decision for 64 devices, alone and of 64 slots at
    once, and the ratio to the trained network's, all in one run.
    """
    env, params = _world(scenario, TRAIN)
    config = dataclasses.replace(runs.FULL.config, n_evaluations=4)
    learned = LEARNERS[BEST].train(_key(LEARN)[None], params, env, config)
    weights = jax.tree.map(lambda leaf: leaf[0], learned.weights)
    wide, world = _world(
        dataclasses.replace(scenario, devices=_TIMED_DEVICES, rows=_TIMED_SLOTS, slots=16), HELD_OUT
    )
    others = baseline_policies(wide)
    timed = {BEST: LEARNERS[BEST].policy(wide, config.hidden, weights)}
    timed |= {name: others[name] for name in (COMPARED, REFERENCE)}
    rows = jnp.arange(_TIMED_SLOTS, dtype=jnp.int32)
    states, timesteps = jax.vmap(wide.reset_at, (0, None, None))(rows, jnp.int32(8), world)
    first = jax.tree.map(lambda leaf: leaf[0], (states, timesteps.observation))
    lines = {}
    for name, (_, policy) in timed.items():

        def decide(state, seen, params, policy=policy):
            return policy(jax.random.key(0), state, seen, params)

        one = measure(name, decide, *first, world)["median_s"]
        many = measure(name, jax.vmap(decide, (0, 0, None)), states, timesteps.observation, world)[
            "median_s"
        ]
        lines[name] = {"one_at_a_time_s": one, "batched_s": many / _TIMED_SLOTS}
    for name, line in lines.items():
        ratios = {
            f"times_network_{what}": value / lines[BEST][what] for what, value in line.items()
        }
        told = {
            "recipe": "speed",
            "scenario": scenario.name,
            "devices": _TIMED_DEVICES,
            "slots_at_once": _TIMED_SLOTS,
        }
        record("fleet", told | {"policy": name} | line | ratios)


def scale(scenario: FleetScenario, devices: list[int]) -> None:
    """Appends one line a number of devices: seconds of a step and of an update, by device, and peak
    resident memory.
    """
    for number in sorted(devices):  # the peak is that of all so far
        env, params = _world(dataclasses.replace(scenario, devices=number, rows=2, slots=16), TRAIN)
        state, _ = env.reset_at(jnp.int32(0), jnp.int32(0), params)
        choice = jnp.full(number, env.on_device(0), jnp.int32)
        stepped = measure("step", env.step, state, choice, params)
        n_envs = max(512 // number, 2)
        config = dataclasses.replace(
            runs.FULL.config, n_envs=n_envs, n_evaluations=1, evaluation_envs=1, evaluation_steps=1
        )

        def train(key, params, env=env, config=config):
            hyper = ppo.Hyper(learning_rate=1e-2)
            return ppo.train(
                key, params, hyper, env=env, config=config, outcomes=fleet_actor.outcomes
            )

        trained = measure("updates", train, _key(LEARN), params, repeats=3)
        n_seen = config.n_envs * config.n_steps * config.updates_per_evaluation * number
        line = {"recipe": "scale", "scenario": scenario.name, "devices": number, "n_envs": n_envs}
        line |= {"step_s": stepped["median_s"], "step_s_per_device": stepped["median_s"] / number}
        line |= {"updates": config.updates_per_evaluation, "updates_s": trained["median_s"]}
        line |= {
            "compile_s": trained["compile_s"],
            "learning_s_per_device_step": trained["median_s"] / n_seen,
        }
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        record("fleet", line | {"peak_resident_mib": round(peak_mib)})


def _measures(cost: np.ndarray, of_all: report.Costs, bound: np.ndarray) -> dict[str, float]:
    """Cost of a task, its share above the bound, and what it is below that of the strongest
    baselines, paired by rows.
    """
    intervals = {
        "cost": evaluate.interval(cost),
        "gap_ratio": evaluate.interval(cost / bound - 1.0),
    }
    for baseline in (COMPARED, "equal shares", REFERENCE):
        intervals[f"below_{baseline.replace(' ', '_')}"] = evaluate.interval(
            of_all[baseline] - cost
        )
    line = {}
    for what, interval in intervals.items():
        line |= {what: round(interval.mean, 6), f"{what}_half": round(interval.half, 6)}
    return line


def _world(scenario: FleetScenario, purpose: int) -> tuple[Fleet, FleetParams]:
    return jaxcoinfer.make(
        scenario, _key(purpose), split="eval" if purpose == HELD_OUT else "train"
    )


def _key(purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(0), purpose)


def main() -> None:
    """Runs one of the recipes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=["table", "speed", "scale"])
    parser.add_argument("--scenario", nargs="+")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", type=int, nargs="+", default=[64, 512, 4096])
    options = parser.parse_args()
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
