"""Baselines for `on-demand`. Each function returns a policy `(key, state, observation, params) ->
action`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
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
    """Any valid action, each as likely."""
    return lambda key, state, observation, params: _as_action(
        jax.random.categorical(key, jnp.where(params.valid, 0.0, -jnp.inf))
    )


def greedy(env: OnDemand) -> Policy:
    """Best utility if link and speeds still are as last seen."""
    return lambda key, state, observation, params: _as_action(
        jnp.argmax(twin.forecast(env, state, params).utility)
    )


def full_information(env: OnDemand) -> Policy:
    """Best utility in the slot as it truly is; no device can do this, and none can do better."""
    return lambda key, state, observation, params: _as_action(
        jnp.argmax(twin.evaluate(env, state, params).utility)
    )


def neurosurgeon(env: OnDemand) -> Policy:
    """Cut of least latency at the observed link and speeds; the full network, features at the
    widest width.

    The manner of Kang et al., *Neurosurgeon* (ASPLOS 2017), which knows neither early exits nor
    quantisation.
    """

    def act(key, state, observation, params):
        exits, _, widths = _grid(env)
        may = params.valid & (exits == env.n_exits - 1) & (widths == env.n_bits - 1)
        return _least(twin.forecast(env, state, params).latency_s, may)

    return act


def edgent(env: OnDemand) -> Policy:
    """The largest exit that meets the deadline at the observed link and speeds, with the cut of
    least latency for it.

    Where no exit meets it, the least latency of all. Features at the widest width. The manner of Li
    et al., *Edgent* (IEEE TWC 2020), which does not quantise.
    """

    def act(key, state, observation, params):
        exits, _, widths = _grid(env)
        latency_s = twin.forecast(env, state, params).latency_s
        may = params.valid & (widths == env.n_bits - 1)
        meets = may & (latency_s <= params.deadline_s[state.now.task_class])
        largest = jnp.max(jnp.where(meets, exits, -1))
        return _least(latency_s, jnp.where(meets.any(), meets & (exits == largest), may))

    return act


def best_fixed(env: OnDemand, params: Params) -> int:
    """Returns the valid action that, always taken, gives the most utility in the bank. Call it
    outside jit.
    """
    utility = np.asarray(_mean_utility(env, params))
    return int(np.argmax(utility))


def _mean_utility(env: OnDemand, params: Params) -> jax.Array:
    zero = jnp.zeros((), jnp.int32)

    def of_row(records):  # [T, 4]
        def of_slot(record):
            slot = Slot(record)
            return twin.evaluate(env, State(zero, zero, zero > 0, slot, slot), params).utility

        return jax.vmap(of_slot)(records).mean(axis=0)

    return jax.jit(lambda bank: jax.lax.map(of_row, bank.slots[:, :-1]).mean(axis=0))(params.bank)


def _grid(env: OnDemand) -> tuple[jax.Array, jax.Array, jax.Array]:
    return env.unflatten(jnp.arange(env.n_actions, dtype=jnp.int32))


def _least(values: jax.Array, may: jax.Array) -> jax.Array:
    return _as_action(jnp.argmin(jnp.where(may, values, jnp.inf)))


def _as_action(index: jax.Array) -> jax.Array:
    return index.astype(jnp.int32)
