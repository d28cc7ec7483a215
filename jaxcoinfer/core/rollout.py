"""Environment × policy × time, vectorised.

A policy is a pure function `policy(key, state, observation, params) -> action` of one environment.
State and params are what `env.visible` leaves of them: what only the world knows is not there. An
`Oracle` receives everything. Most policies ignore the key; an unused one costs nothing under jit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.core.contract import Env, TimeStep, select
from jaxcoinfer.core.sharding import shard

Policy = Callable[[jax.Array, Any, jax.Array, Any], Any]


@dataclass(frozen=True)
class Oracle:
    """A policy that receives all that the world knows, the future included; no device can do the
    same.
    """

    policy: Policy

    def __call__(self, key: jax.Array, state: Any, observation: jax.Array, params: Any) -> Any:
        return self.policy(key, state, observation, params)


def act(
    env: Env, policy: Policy, key: jax.Array, state: Any, observation: jax.Array, params: Any
) -> Any:
    """Returns what a policy decides on what it may know; of one environment."""
    if not isinstance(policy, Oracle):
        state, params = env.visible(state, params)
    return policy(key, state, observation, params)


def unroll(
    env: Env,
    params: Any,
    policy: Policy,
    key: jax.Array,
    state: Any,
    timestep: TimeStep,
    n_steps: int,
) -> tuple[Any, TimeStep, TimeStep]:
    """Steps B environments without resets; returns last state, last time step, and all time steps
    [n_steps, B].

    state, timestep: of B environments, as `jax.vmap(env.reset, (0, None))` returns them. Those that
    are done stay as they are. Parts of the time steps that the caller does not use are neither
    computed nor stored under jit.
    """
    n_envs = timestep.reward.shape[0]

    def move(carry: Any, key_step: jax.Array):
        state, timestep = carry
        keys = jax.random.split(key_step, n_envs)
        decide = jax.vmap(partial(act, env, policy), (0, 0, 0, None))
        action = decide(keys, state, timestep.observation, params)
        state, timestep = jax.vmap(env.step, (0, 0, None))(state, action, params)
        return (state, timestep), timestep

    (state, timestep), steps = jax.lax.scan(
        move, shard((state, timestep)), jax.random.split(key, n_steps)
    )
    return state, timestep, steps


def mean_reward(
    env: Env, params: Any, policy: Policy, start: tuple[Any, TimeStep], n_steps: int
) -> jax.Array:
    """Returns the mean reward per step of a policy that needs no key, over n_steps of B
    environments that do not restart.
    """
    unused = jax.random.key(0)

    def one(state: Any, timestep: TimeStep):
        alive = ~(timestep.terminated | timestep.truncated)
        action = act(env, policy, unused, state, timestep.observation, params)
        after, following = env.step(state, action, params)
        return (after, following), (jnp.where(alive, following.reward, 0.0), alive)

    _, (reward, alive) = jax.lax.scan(
        lambda carry, _: jax.vmap(one)(*carry), shard(start), length=n_steps
    )
    return reward.sum() / jnp.maximum(alive.sum(), 1).astype(jnp.float32)


def restart_ended(
    env: Env, params: Any, key: jax.Array, state: Any, timestep: TimeStep
) -> tuple[Any, TimeStep]:
    """Starts those of B environments that are done afresh; the others go on.

    Called between blocks of steps rather than after each: a reset draws random numbers, which cost
    many times what a step does. An environment that is done idles until the block is over, which
    with blocks of 64 steps and episodes of thousands wastes about 1 %.
    """
    fresh = jax.vmap(env.reset, (0, None))(jax.random.split(key, timestep.reward.shape[0]), params)
    ended = timestep.terminated | timestep.truncated

    return select(ended, fresh, (state, timestep))


def rollout(
    env: Env,
    params: Any,
    policy: Policy,
    key: jax.Array,
    n_envs: int,
    n_blocks: int,
    block_steps: int,
    reduce: Callable[[TimeStep], Any],
):
    """Runs B environments for n_blocks × block_steps steps with fresh starts between blocks.

    Returns `reduce(steps)` of each block, stacked; reduce takes time steps [block_steps, B]. So no
    trajectory leaves the loop.
    """
    key_reset, key_run = jax.random.split(key)
    start = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, n_envs), params)

    def block(carry: Any, key_block: jax.Array):
        key_steps, key_fresh = jax.random.split(key_block)
        state, timestep = carry
        state, timestep, steps = unroll(
            env, params, policy, key_steps, state, timestep, block_steps
        )
        return restart_ended(env, params, key_fresh, state, timestep), reduce(steps)

    return jax.lax.scan(block, start, jax.random.split(key_run, n_blocks))[1]
