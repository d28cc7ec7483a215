"""What a second CPU device gains or costs: the same work on one device and on two.

    python -m benchmarks.devices [--counts 1 2] [--envs 16384] [--rounds 3] [--repeats 5]

`rollout`: 256 random decisions of each of the environments of `stopping`, rewards summed. `update`:
one update of proximal policy optimisation on `on-demand-markov`, with an evaluation of one step on
256 environments. The number of devices is fixed when Python starts, so each count has its own
process; counts take turns, --rounds times, and the best median counts. `ratio`: steps per second
relative to the first count; 1 means no slower in total. On one device XLA spreads large operations
over all cores by itself, so the meaning of a ratio depends on the number of cores.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import jaxcoinfer
from jaxcoinfer.core import sharding
from jaxcoinfer.core.rollout import unroll
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems.on_demand.policies import outcomes
from jaxcoinfer.systems.stopping import baselines
from training.common import measure, parser, record

STEPS = 256


def rollout(n_envs: int, repeats: int) -> dict[str, float]:
    """Returns decisions per second."""
    env, params = jaxcoinfer.make("reference")

    def play(key: jax.Array, params: Any) -> jax.Array:
        key_start, key_play = jax.random.split(key)
        state, timestep = jax.vmap(env.reset, (0, None))(
            jax.random.split(key_start, n_envs), params
        )
        policy = baselines.random_choice()
        _, _, steps = unroll(env, params, policy, key_play, state, timestep, STEPS)
        return steps.reward.sum(axis=0)

    timed = measure("rollout", play, jax.random.key(0), params, repeats=repeats)
    return {"steps_per_s": STEPS * n_envs / timed["median_s"], "compile_s": timed["compile_s"]}


def update(n_envs: int, repeats: int) -> dict[str, float]:
    """Returns environment steps per second, learning included."""
    env, params = jaxcoinfer.make("on-demand-markov", jax.random.key(0))
    config = ppo.Config(
        n_envs=n_envs, n_evaluations=1, updates_per_evaluation=1, evaluation_steps=1
    )

    def train(key: jax.Array, params: Any) -> Any:
        hyper = ppo.Hyper()
        return ppo.train(key, params, hyper, env=env, config=config, outcomes=outcomes).weights

    timed = measure("update", train, jax.random.key(1), params, repeats=repeats)
    return {
        "steps_per_s": n_envs * config.n_steps / timed["median_s"],
        "compile_s": timed["compile_s"],
    }


QUESTIONS = {"rollout": rollout, "update": update}


def measured_on(count: int, question: str, n_envs: int, repeats: int) -> dict[str, float]:
    """Returns what a process with `count` devices measures."""
    command = [sys.executable, "-m", "benchmarks.devices", "--one", question, f"--envs={n_envs}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).resolve().parents[1]
    command += [f"--repeats={repeats}"]
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Measures both questions on every count and appends one line for each."""
    command = parser(__doc__)
    command.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    command.add_argument("--envs", type=int, default=16384)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--repeats", type=int, default=5)
    command.add_argument("--one", choices=list(QUESTIONS), help=argparse.SUPPRESS)
    options = command.parse_args()
    if options.one:
        with jax.set_mesh(sharding.mesh()):
            print(json.dumps(QUESTIONS[options.one](options.envs, options.repeats)))
        return
    for question in QUESTIONS:
        best: dict[int, dict[str, float]] = {}
        for _ in range(options.rounds):
            for count in options.counts:
                line = measured_on(count, question, options.envs, options.repeats)
                best[count] = max(best.get(count, line), line, key=lambda one: one["steps_per_s"])
        first = best[options.counts[0]]["steps_per_s"]
        for count, line in best.items():
            facts = {
                "question": question,
                "forced_devices": count,
                "envs": options.envs,
                "rounds": options.rounds,
            }
            record("devices", facts | line | {"ratio": line["steps_per_s"] / first})


if __name__ == "__main__":
    main()
