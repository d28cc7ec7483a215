"""What the gymnax adapter costs: steps per second through it and of the native step, in one run,
with the same actions.

    python -m benchmarks.adapters [--scenario reference] [--sizes 1024 16384]

Native: `env.step` under vmap in a scan, no restarts, so replicas that are done stay idle; the
adapter restarts them in the step that ends them. Actions come from a linear congruential generator.
With `given`, so do the keys, so that only the cost of the adapter counts; with `split`, both sides
split a key for every step and replica, as trainers for gymnax do. Observations are carried to the
next step, as for a policy that acts on them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import coins
from jaxcoinfer.adapters import Gymnax
from training.common import measure, parser, record

STEPS_PER_CALL = 1 << 20


def steps_loop(env: Any, n_envs: int, n_steps: int, adapted: bool, split: bool) -> Callable:
    """A function (key, params, state, observation) -> sums over n_steps of n_envs environments, and
    how many were done.
    """

    def step(carry: tuple, key: jax.Array, params: Any) -> tuple[tuple, jax.Array]:
        state, observation, seeds, total = carry
        seeds = coins(seeds)
        action = (seeds >> jnp.uint32(31)).astype(jnp.int32) % env.n_actions
        keys = jax.random.split(key, n_envs) if split else _keys(seeds)
        total = total + observation.sum(axis=-1)
        if adapted:
            out = jax.vmap(Gymnax(env).step, (0, 0, 0, None))(keys, state, action, params)
            observation, state, reward, terminated, truncated, _ = out
            ends = (terminated | truncated).sum()
        else:
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
            observation, reward = timestep.observation, timestep.reward
            # Read the keys, or the compiler would leave out their split.
            ends = jax.random.key_data(keys).sum() if split else jnp.zeros((), jnp.int32)
        return (state, observation, seeds, total + reward), ends

    def loop(
        key: jax.Array, params: Any, state: Any, observation: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
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
    """Measures every size and appends one line for each."""
    command = parser(__doc__)
    command.add_argument("--scenario", default="reference")
    command.add_argument("--sizes", type=int, nargs="+", default=[1024, 16384])
    command.add_argument("--repeats", type=int, default=7)
    options = command.parse_args()
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
