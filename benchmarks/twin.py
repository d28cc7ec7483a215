"""How many outcomes a second the workload twin gives, and what a decision costs as rows get longer.

python -m benchmarks.twin outcomes [--sizes 1024 16384]
python -m benchmarks.twin length [--lengths 1000 10000 100000 1000000]
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import measure, record
from benchmarks.stopping import BLOCK, stopping_loop
from jaxcoinfer import scenarios
from jaxcoinfer.twin import workload


def outcomes(sizes: list[int]) -> None:
    """One line a size: outcomes (tasks × choices) of `twin.workload.evaluate` a second, several calls in one loop."""
    scenario = dataclasses.replace(scenarios.load_scenario("reference"), rows=16, slots=8192)
    env, params = jaxcoinfer.make(scenario)
    n_tasks = 16
    for n_envs in sizes:
        keys = jax.random.split(jax.random.key(1), n_envs)
        state, _ = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)

        def loop(state, params):
            def task(carry, _):
                state, total = carry
                replay = jax.vmap(lambda s: workload.evaluate(env, s, params))(state)
                choice = jnp.argmax(replay.choices.value, axis=-1).astype(jnp.int32)
                state = jax.vmap(workload.follow, (0, 0, None))(replay, choice, params)
                return (state, total + replay.choices.utility.sum()), None

            return jax.lax.scan(task, (state, jnp.float32(0)), None, length=n_tasks)[0]

        timed = measure("twin", loop, state, params)
        per_s = n_envs * n_tasks * env.n_choices / timed["median_s"]
        record("twin", {"n_envs": n_envs, "outcomes_per_s": per_s, "compile_s": timed["compile_s"]})


def length(lengths: list[int]) -> None:
    """One line a length: nanoseconds a decision at 1,024 environments on a bank of 8 rows."""
    n_envs, n_blocks = 1024, 16
    for n_slots in lengths:
        scenario = dataclasses.replace(scenarios.load_scenario("reference"), rows=8, slots=n_slots)
        env, params = jaxcoinfer.make(scenario)
        keys = jax.random.split(jax.random.key(1), n_envs)
        start = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
        timed = measure("length", stopping_loop(env, n_envs, n_blocks, True), jax.random.key(2), params, *start)
        per_decision_ns = 1e9 * timed["median_s"] / (n_envs * n_blocks * BLOCK)
        record("length", {"n_slots": n_slots, "ns_per_decision": per_decision_ns})


def main() -> None:
    """Runs one of the two questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["outcomes", "length"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 16384])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    if options.question == "outcomes":
        outcomes(options.sizes)
    else:
        length(options.lengths)


if __name__ == "__main__":
    main()
