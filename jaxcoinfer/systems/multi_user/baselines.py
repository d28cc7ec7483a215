"""Baselines for `multi-user`. Each function returns a policy `(key, state, observation, params) ->
action`.

Axes: U users, S splits, C channels.
"""

import jax
import jax.numpy as jnp

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.physics.link import snr
from jaxcoinfer.systems.multi_user.env import MultiUser
from jaxcoinfer.systems.multi_user.events import UsersAction, UsersState
from jaxcoinfer.systems.multi_user.params import MultiUserParams


def shard(env: MultiUser) -> jax.Array:
    """Returns channels that every user keeps, int32 [U]: users are spread evenly over them."""
    return jnp.arange(env.n_users, dtype=jnp.int32) % env.n_channels


def fixed_split(env: MultiUser, split: int) -> Policy:
    """The same split for all users, spread over the channels, at full power; the last split is all
    on the device.
    """
    return lambda key, state, observation, params: _at_full_power(
        jnp.full(env.n_users, split, jnp.int32), env, params
    )


def random_valid(env: MultiUser) -> Policy:
    """Splits, channels and powers each uniform."""

    def act(
        key: jax.Array, state: UsersState, observation: jax.Array, params: MultiUserParams
    ) -> UsersAction:
        key_split, key_channel, key_power = jax.random.split(key, 3)
        shape = (env.n_users,)
        return UsersAction(
            split=jax.random.randint(key_split, shape, 0, env.n_splits, jnp.int32),
            channel=jax.random.randint(key_channel, shape, 0, env.n_channels, jnp.int32),
            power_w=jax.random.uniform(key_power, shape, jnp.float32, params.least_w, params.max_w),
        )

    return act


def greedy(env: MultiUser) -> Policy:
    """For each user the split that costs it least if users of a channel take turns, at full power.

    Users are spread over the channels; each of n users of a channel counts on an n-th of its time,
    without interference. A task costs seconds + beta joules.
    """

    def act(
        key: jax.Array, state: UsersState, observation: jax.Array, params: MultiUserParams
    ) -> UsersAction:
        split = jnp.argmin(task_costs(env, state, params), axis=1).astype(jnp.int32)
        return _at_full_power(split, env, params)

    return act


def task_costs(env: MultiUser, state: UsersState, params: MultiUserParams) -> jax.Array:
    """Returns `compute_s + n send_s + beta (watts compute_s + max_w send_s)`, [U, S]; n: users with
    tasks left that share the channel.
    """
    channel = shard(env)
    busy = state.tasks > 0
    turns = jnp.maximum(((channel[:, None] == channel[None]) & busy[None]).sum(axis=1), 1).astype(
        jnp.float32
    )
    ratio = snr(params.max_w, state.distance_m, params.path_loss, params.noise_w)
    rate_bps = params.bandwidth_hz * jnp.log1p(ratio) / jnp.log(2.0)
    send_s = params.upload_bits[None] / rate_bps[:, None]
    device_cost = params.compute_s * (1.0 + params.energy_weight * params.compute_w)
    return device_cost[None] + send_s * (turns[:, None] + params.energy_weight * params.max_w)


def _at_full_power(split: jax.Array, env: MultiUser, params: MultiUserParams) -> UsersAction:
    return UsersAction(split, shard(env), jnp.full(env.n_users, params.max_w))
