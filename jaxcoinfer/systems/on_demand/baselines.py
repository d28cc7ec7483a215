"""Baselines for `on-demand`. Each function returns a policy
`(key, state, observation, params) -> action`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.systems.on_demand import twin
from jaxcoinfer.systems.on_demand.env import OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params


def fixed(action: int) -> Policy:
    """Always the same action."""
    return lambda key, state, observation, params: jnp.asarray(action, jnp.int32)


def device_only(env: OnDemand) -> Policy:
    """The full network on the device."""
    return fixed(env.n_actions - 1)


def edge_only(env: OnDemand) -> Policy:
    """The input is sent, and the full network runs on the edge."""
    return fixed(((env.n_exits - 1) * env.n_cuts + 1) * env.n_bits - 1)


def random_valid() -> Policy:
    """A valid action, all equally likely."""
    return lambda key, state, observation, params: _as_action(
        jax.random.categorical(key, jnp.where(params.valid, 0.0, -jnp.inf))
    )


def greedy(env: OnDemand) -> Policy:
    """Best utility if link and speeds are still as last observed."""
    return lambda key, state, observation, params: _as_action(
        jnp.argmax(twin.forecast(env, state, params).utility)
    )


def full_information(env: OnDemand) -> Policy:
    """Best utility in the true current slot; no device can do this, and none can do better."""
    return Oracle(
        lambda key, state, observation, params: _as_action(
            jnp.argmax(twin.evaluate(env, state, params).utility)
        )
    )


def neurosurgeon(env: OnDemand) -> Policy:
    """The cut of least latency at the observed link and speeds; the full network, features of most
    bits.

    After Kang et al., *Neurosurgeon* (ASPLOS 2017), which has neither early exits nor quantisation.
    """

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        exits, _, widths = _grid(env)
        allowed = params.valid & (exits == env.n_exits - 1) & (widths == env.n_bits - 1)
        return _argmin(twin.forecast(env, state, params).latency_s, allowed)

    return act


def edgent(env: OnDemand) -> Policy:
    """The largest exit that meets the deadline at the observed link and speeds, with its cut of
    least latency.

    If no exit meets the deadline, the least latency of all. Features of most bits. After Li et al.,
    *Edgent* (IEEE TWC 2020), which does not quantise.
    """

    def act(key: jax.Array, state: State, observation: jax.Array, params: Params) -> jax.Array:
        exits, _, widths = _grid(env)
        latency_s = twin.forecast(env, state, params).latency_s
        allowed = params.valid & (widths == env.n_bits - 1)
        in_time = allowed & (latency_s <= params.deadline_s[state.task_class])
        largest = jnp.max(jnp.where(in_time, exits, -1))
        candidates = jnp.where(in_time.any(), in_time & (exits == largest), allowed)
        return _argmin(latency_s, candidates)

    return act


def best_fixed(env: OnDemand, params: Params) -> int:
    """Returns the valid action that gives the most utility in the bank if it is always taken. Call
    it outside jit.
    """
    utility = np.asarray(_mean_utility(env, params))
    return int(np.argmax(utility))


def _mean_utility(env: OnDemand, params: Params) -> jax.Array:
    """Mean utility of each action over all slots of the bank, [A]."""
    zero = jnp.zeros((), jnp.int32)

    def in_slot(record: jax.Array) -> jax.Array:
        slot = Slot(record)
        return twin.evaluate(
            env, State(zero, zero, zero > 0, slot.task_class, slot, slot), params
        ).utility

    def in_row(records: jax.Array) -> jax.Array:  # [T, 5]
        return jax.vmap(in_slot)(records).mean(axis=0)

    return jax.jit(lambda bank: jax.lax.map(in_row, bank.slots[:, :-1]).mean(axis=0))(params.bank)


def _grid(env: OnDemand) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Exit, cut and width of every action, [A] each."""
    return env.unflatten(jnp.arange(env.n_actions, dtype=jnp.int32))


def _argmin(values: jax.Array, allowed: jax.Array) -> jax.Array:
    return _as_action(jnp.argmin(jnp.where(allowed, values, jnp.inf)))


def _as_action(index: jax.Array) -> jax.Array:
    return index.astype(jnp.int32)
