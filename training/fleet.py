"""`fleet` at full length: the time of a decision, and how it grows with the number of devices.
Tables of all policies: `training.results`.

    python -m training.fleet speed [--scenario fleet]
    python -m training.fleet scale [--scenario fleet] [--devices 64 512 4096]

`speed` times a decision of the trained network, of
alternating optimisation and of dual recovery for 64 devices, of one slot and of 64 slots at once.
`scale` times a step and an update of the training.
"""

import dataclasses
import resource
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.evaluation.executor import HELD_OUT, LEARN, TRAIN_DRAW, key_of
from jaxcoinfer.evaluation.seeds import pick
from jaxcoinfer.learn import ppo
from jaxcoinfer.learn.networks import TrainResult
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.fleet import network as fleet_network
from jaxcoinfer.systems.fleet import run as runs
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.policies import (
    ALTERNATING,
    BEST,
    LEARNERS,
    RECOVERY,
    baseline_policies,
)
from jaxcoinfer.systems.fleet.scenario import FleetScenario
from training.common import make_world, measure, parser, record

_TIMED_DEVICES, _TIMED_SLOTS = 64, 64


def speed(scenario: FleetScenario) -> None:
    """Appends one line per policy: seconds of a decision for 64 devices, alone and of 64 slots at
    once, and the ratio to the trained network's, all in one run.
    """
    env, params = make_world(scenario, TRAIN_DRAW)
    config = dataclasses.replace(runs.FULL.config, n_evaluations=4)
    learned = LEARNERS[BEST].train(key_of(0, LEARN)[None], params, env, config)
    wide, world = make_world(
        dataclasses.replace(scenario, devices=_TIMED_DEVICES, rows=_TIMED_SLOTS, slots=16), HELD_OUT
    )
    others = baseline_policies(wide, config.hidden)
    wide_env, every = LEARNERS[BEST].learned(wide, config.hidden, learned.weights)
    timed: dict[str, Any] = {BEST: (wide_env, every.policy(pick(every.weights, 0)))}
    timed |= {name: others[name] for name in (ALTERNATING, RECOVERY)}
    rows = jnp.arange(_TIMED_SLOTS, dtype=jnp.int32)
    states, timesteps = jax.vmap(wide.reset_at, (0, None, None))(rows, jnp.int32(8), world)
    first = pick((states, timesteps.observation), 0)
    lines = {}
    for name, (_, policy) in timed.items():

        def decide(
            state: Any, observation: jax.Array, params: Any, policy: Policy = policy
        ) -> jax.Array:
            return act(wide, policy, jax.random.key(0), state, observation, params)

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


def main() -> None:
    """Runs one of the recipes."""
    command = parser(__doc__)
    command.add_argument("recipe", choices=["speed", "scale"])
    command.add_argument("--scenario", nargs="+", default=["fleet"])
    command.add_argument("--devices", type=int, nargs="+", default=[64, 512, 4096])
    options = command.parse_args()
    for name in options.scenario:
        scenario = registry.load_scenario(name)
        if options.recipe == "speed":
            speed(scenario)
        else:
            scale(scenario, options.devices)


if __name__ == "__main__":
    main()
