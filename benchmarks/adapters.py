"""What the gymnax face costs: steps a second through it beside the native step, in one run, same
actions.

    python -m benchmarks.adapters [--scenario reference] [--sizes 1024 16384]

Native: `env.step` under vmap in a scan, no restarts, so that replicas that have ended idle in it;
the face restarts them in the step that ends. Actions come from a linear congruential generator, and
so do the keys of `given`, for a face costs what is its own. `split` divides a key for every step
and replica, as trainers for gymnax do, on both sides. Observations are carried to the next step, as
for a policy that acts on them.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import coins, measure, record
from jaxcoinfer.adapters import Gymnax

STEPS_PER_CALL = 1 << 20


def steps_loop(env: Any, n_envs: int, n_steps: int, face: bool, split: bool):
    """A function (key, params, state, observation) -> sums over n_steps of n_envs environments, and
    how many ended.
    """

    def step(carry, key, params):
        state, observation, seeds, total = carry
        seeds = coins(seeds)
        action = (seeds >> jnp.uint32(31)).astype(jnp.int32) % env.n_actions
        keys = jax.random.split(key, n_envs) if split else _keys(seeds)
        total = total + observation.sum(axis=-1)
        if face:
            out = jax.vmap(Gymnax(env).step, (0, 0, 0, None))(keys, state, action, params)
            observation, state, reward, terminated, truncated, _ = out
            ends = (terminated | truncated).sum()
        else:
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
            observation, reward = timestep.observation, timestep.reward
            ends = (
                jax.random.key_data(keys).sum() if split else jnp.zeros((), jnp.int32)
            )  # or nobody would divide it
        return (state, observation, seeds, total + reward), ends

    def loop(key, params, state, observation):
        seeds = jnp.arange(n_envs, dtype=jnp.uint32) * jnp.uint32(2654435761)
        carry = (state, observation, seeds, jnp.zeros(n_envs))
        carry, ends = jax.lax.scan(
            lambda carry, key: step(carry, key, params), carry, jax.random.split(key, n_steps)
        )
        return carry[-1].sum(), ends.sum()

    return loop


def _keys(seeds: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(jnp.stack([seeds, seeds * jnp.uint32(747796405)], axis=-1))


def main() -> None:
    """Measures every size and appends one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", default="reference")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 16384])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    env, params = jaxcoinfer.make(options.scenario)
    for n_envs in options.sizes:
        n_steps = max(16, STEPS_PER_CALL // n_envs)
        keys = jax.random.split(jax.random.key(1), n_envs)
        state, first = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
        arguments = (jax.random.key(2), params, state, first.observation)
        line = {"scenario": options.scenario, "n_envs": n_envs, "steps": n_envs * n_steps}
        for manner in ("given", "split"):
            for side in ("native", "gymnax"):
                loop = steps_loop(env, n_envs, n_steps, side == "gymnax", manner == "split")
                timed = measure(f"{side} {manner}", loop, *arguments, repeats=options.repeats)
                line[f"{side}_{manner}_steps_per_s"] = line["steps"] / timed["median_s"]
                if side == "gymnax":
                    line["ends_per_step"] = int(jax.jit(loop)(*arguments)[1]) / n_steps
            line[f"times_native_{manner}"] = (
                line[f"native_{manner}_steps_per_s"] / line[f"gymnax_{manner}_steps_per_s"]
            )
        record("adapters", line)


if __name__ == "__main__":
    main()
