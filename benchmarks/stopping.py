"""Decisions per second: `stopping` under random actions and gymnax CartPole-v1, in one run.

    python -m benchmarks.stopping [--sizes 1 64 1024 16384 131072] [--rows 16] [--slots 8192]

The bank (8 MB at these sizes) fits the last-level cache of a server; with --rows 64 --slots 16384
it does not. Every step leaves its observation in memory, as a policy needs it. Actions come from a
linear congruential generator in the loop, a few instructions each. CartPole runs with gymnax's own
auto-reset and the same actions (needs the `bench` extra; left out if absent).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxcoinfer
from benchmarks.harness import coins, unroll
from jaxcoinfer.core.contract import TimeStep
from jaxcoinfer.core.rollout import restart_ended
from jaxcoinfer.systems import registry
from jaxcoinfer.systems.stopping.env import Stopping
from training.common import measure, parser, record

DECISIONS_PER_CALL = 1 << 22
BLOCK = 256  # steps between restarts of environments that are done


def stopping_loop(env: Stopping, n_envs: int, n_blocks: int) -> Callable:
    """A function (key, params, state, timestep) -> last state and observation, sums of rewards;
    n_blocks × BLOCK steps.

    The compiler leaves out of the loop what is not read, such as the outcome of a step.
    """

    def loop(key: jax.Array, params: Any, state: Any, timestep: TimeStep) -> tuple:
        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            state, timestep, seeds, total = carry
            seeds = coins(seeds)
            action = (seeds >> jnp.uint32(31)).astype(jnp.int32)
            state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
            return (state, timestep, seeds, total + timestep.reward), None

        def block(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            (state, timestep, seeds, total), _ = jax.lax.scan(
                step, carry, None, length=BLOCK, unroll=unroll()
            )
            state, timestep = restart_ended(env, params, key, state, timestep)
            return (state, timestep, seeds, total), None

        seeds = jnp.arange(n_envs, dtype=jnp.uint32) * jnp.uint32(2654435761)
        start = (state, timestep, seeds, jnp.zeros(n_envs))
        state, timestep, _, total = jax.lax.scan(block, start, jax.random.split(key, n_blocks))[0]
        return state, timestep.observation, total

    return loop


def cartpole_loop(n_envs: int, n_steps: int) -> Callable | None:
    """The same for gymnax CartPole-v1 with its own auto-reset; None if gymnax is not installed."""
    try:
        import gymnax  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    env, env_params = gymnax.make("CartPole-v1")

    def loop(key: jax.Array, start_key: jax.Array) -> tuple:
        first, state = jax.vmap(env.reset, (0, None))(
            jax.random.split(start_key, n_envs), env_params
        )
        seeds = jnp.arange(n_envs, dtype=jnp.uint32) * jnp.uint32(2654435761)

        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            state, _, seeds, total = carry
            seeds = coins(seeds)
            action = (seeds >> jnp.uint32(31)).astype(jnp.int32)
            out = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key, n_envs), state, action, env_params
            )
            observation, state, reward = out[:3]
            return (state, observation, seeds, total + reward), None

        return jax.lax.scan(
            step, (state, first, seeds, jnp.zeros(n_envs)), jax.random.split(key, n_steps)
        )[0]

    return loop


def main() -> None:
    """Measures every size and appends one line for each."""
    command = parser(__doc__)
    command.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 1024, 16384, 131072])
    command.add_argument("--rows", type=int, default=16)
    command.add_argument("--slots", type=int, default=8192)
    command.add_argument("--repeats", type=int, default=7)
    options = command.parse_args()
    scenario = dataclasses.replace(
        registry.load_scenario("reference"), rows=options.rows, slots=options.slots
    )
    env, params = jaxcoinfer.make(scenario)
    for n_envs in options.sizes:
        n_blocks = max(1, min(1024, DECISIONS_PER_CALL // (n_envs * BLOCK)))
        decisions = n_envs * n_blocks * BLOCK
        keys = jax.random.split(jax.random.key(1), n_envs)
        start = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)
        line = {"n_envs": n_envs, "rows": options.rows, "slots": options.slots}
        loop = stopping_loop(env, n_envs, n_blocks)
        timed = measure(
            "stopping", loop, jax.random.key(2), params, *start, repeats=options.repeats
        )
        line |= {"decisions_per_s": decisions / timed["median_s"], "compile_s": timed["compile_s"]}
        cartpole = cartpole_loop(n_envs, n_steps := max(16, n_blocks * BLOCK // 8))
        if cartpole is not None:
            timed = measure(
                "cartpole", cartpole, jax.random.key(2), jax.random.key(3), repeats=options.repeats
            )
            steps_per_s = n_envs * n_steps / timed["median_s"]
            line |= {
                "cartpole_steps_per_s": steps_per_s,
                "ratio": line["decisions_per_s"] / steps_per_s,
            }
        record("stopping", line)


if __name__ == "__main__":
    main()
