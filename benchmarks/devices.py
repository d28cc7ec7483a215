"""What a second CPU device gains or costs: the same work on one device and on two, side by side.

    python -m benchmarks.devices [--counts 1 2] [--envs 16384] [--rounds 3] [--repeats 5]

`rollout`: 256 random decisions of each of the environments of `stopping`, rewards summed. `update`:
one update of proximal policy optimisation on `on-demand-markov`, a look at 256 environments for one
step with it. A count of devices is fixed when Python starts, so each has a process of its own;
counts take turns, --rounds times, and the least of the medians counts. `ratio`: steps a second
beside the first count's; 1 is no slower in total. On one device XLA spreads large operations over
all cores by itself, so what a ratio says depends on how many cores there are.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import jax

import jaxcoinfer
from benchmarks.harness import measure, record
from jaxcoinfer.core import sharding
from jaxcoinfer.core.rollout import unroll
from jaxcoinfer.learn import ppo
from jaxcoinfer.systems.on_demand import policies as contenders_on_demand
from jaxcoinfer.systems.stopping import baselines as policies

STEPS = 256


def rollout(n_envs: int, repeats: int) -> dict[str, float]:
    """Returns decisions a second."""
    env, params = jaxcoinfer.make("reference")

    def play(key, params):
        key_start, key_play = jax.random.split(key)
        state, timestep = jax.vmap(env.reset, (0, None))(
            jax.random.split(key_start, n_envs), params
        )
        return unroll(env, params, policies.random_choice(), key_play, state, timestep, STEPS)[
            2
        ].reward.sum(axis=0)

    timed = measure("rollout", play, jax.random.key(0), params, repeats=repeats)
    return {"steps_per_s": STEPS * n_envs / timed["median_s"], "compile_s": timed["compile_s"]}


def update(n_envs: int, repeats: int) -> dict[str, float]:
    """Returns environment steps a second, learning included."""
    env, params = jaxcoinfer.make("on-demand-markov", jax.random.key(0))
    config = ppo.Config(
        n_envs=n_envs, n_evaluations=1, updates_per_evaluation=1, evaluation_steps=1
    )

    def train(key, params):
        asked = contenders_on_demand.outcomes
        return ppo.train(key, params, ppo.Hyper(), env=env, config=config, outcomes=asked).weights

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
    """Measures both questions on every count and appends one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--envs", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=list(QUESTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with jax.set_mesh(sharding.mesh()):
            print(json.dumps(QUESTIONS[options.one](options.envs, options.repeats)))
        return
    for question in QUESTIONS:
        best: dict[int, dict[str, float]] = {}
        for _ in range(options.rounds):
            for count in options.counts:
                found = measured_on(count, question, options.envs, options.repeats)
                best[count] = max(
                    best.get(count, found), found, key=lambda line: line["steps_per_s"]
                )
        first = best[options.counts[0]]["steps_per_s"]
        for count, line in best.items():
            said = {
                "question": question,
                "forced_devices": count,
                "envs": options.envs,
                "rounds": options.rounds,
            }
            record("devices", said | line | {"ratio": line["steps_per_s"] / first})


if __name__ == "__main__":
    main()
