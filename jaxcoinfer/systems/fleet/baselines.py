"""Baselines for `fleet`. Each function returns a policy `(key, state, observation, params) ->
action`.

Each plans choices, [D], and the shares it has in mind, [D] each; where the environment finds the
best shares for the choices by itself, only the choices are played. Axes: D devices, C choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet.allocation import (
    FleetTables,
    allocate,
    chosen,
    descend,
    normalised,
    total_cost,
)
from jaxcoinfer.systems.fleet.env import Fleet, FleetAction, tables

Plan = tuple[jax.Array, jax.Array, jax.Array]  # choice, bandwidth, compute
Planner = Callable[[FleetTables], Plan]

ROUNDS = 50  # of alternating optimisation, which needs a handful
MAX_ANSWERS = 1 << 21  # that `exhaustive` tries


def planned(env: Fleet, plan: Planner) -> Policy:
    """Plays `plan(tables of this slot)` in every slot."""

    def act(key, state, observation, params) -> Any:
        choice, bandwidth, compute = plan(tables(state, params))
        return FleetAction(choice, bandwidth, compute) if env.learned_shares else choice

    return act


def _best_shares(of: FleetTables, choice: jax.Array) -> Plan:
    costs = chosen(of, choice)
    return choice, *allocate(costs.bandwidth, costs.compute)


def _cost_at(of: FleetTables, bandwidth: jax.Array, compute: jax.Array) -> jax.Array:
    """Costs [D, C] with these shares [D]; infinity where a device has no share of what it needs."""

    def part(whole, share):
        return jnp.where(whole > 0.0, whole / jnp.where(share > 0.0, share, jnp.inf)[:, None], 0.0)

    without = ((bandwidth == 0.0)[:, None] & (of.bandwidth > 0.0)) | (
        (compute == 0.0)[:, None] & (of.compute > 0.0)
    )
    cost = of.base + part(of.bandwidth, bandwidth) + part(of.compute, compute)
    return jnp.where(without, jnp.inf, cost)


def _least(cost: jax.Array) -> jax.Array:
    return jnp.argmin(cost, axis=1).astype(jnp.int32)


def _restricted(of: FleetTables, allowed: np.ndarray) -> FleetTables:
    """The tables with infinite cost of all but the choices `allowed` [C] bool."""
    return of.replace(base=jnp.where(allowed[None], of.base, jnp.inf))


def _best_within(of: FleetTables, allowed: np.ndarray) -> jax.Array:
    """Choices among `allowed` that no single change makes better, from those best for a device that
    is alone.
    """
    within = _restricted(of, allowed)
    start = _least(within.base + within.bandwidth + within.compute)
    return descend(within, start, 4 * start.shape[0])


def device_only(env: Fleet) -> Policy:
    """Every task wholly on its device, in the version that costs it least."""
    _, cut, _ = env.parts(np.arange(env.n_choices))
    return planned(
        env, lambda of: _best_shares(of, _least(_restricted(of, cut == env.n_cuts - 1).base))
    )


def edge_only(env: Fleet) -> Policy:
    """Every input to the server, which runs it all, in versions that no single change makes better."""
    _, cut, second = env.parts(np.arange(env.n_choices))
    allowed = (cut == 0) & (second == env.n_cuts - 1)
    return planned(env, lambda of: _best_shares(of, _best_within(of, allowed)))


def one_version(env: Fleet) -> Policy:
    """The same version for all, the best one, with cuts that no single change makes better."""
    version, _, _ = env.parts(np.arange(env.n_choices))

    def plan(of):
        choices = [_best_within(of, version == v) for v in range(env.n_versions)]
        costs = jnp.stack([total_cost(of, choice) for choice in choices])
        return _best_shares(of, jnp.stack(choices)[jnp.argmin(costs)])

    return planned(env, plan)


def equal_shares(env: Fleet) -> Policy:
    """Shares of one n-th for each of n active devices, and for each the choice that costs it least
    with them.
    """

    def plan(of):
        return _least(_cost_at(of, *_equal(of))), *_equal(of)

    return planned(env, plan)


def greedy(env: Fleet) -> Policy:
    """Each device as if it had the whole band and server to itself; then the best shares for what
    comes of it.
    """
    return planned(env, lambda of: _best_shares(of, _least(of.base + of.bandwidth + of.compute)))


def alternating(env: Fleet) -> Policy:
    """From equal shares: best choices for the shares, best shares for the choices, until nothing
    changes.

    The cost never rises. A device that once sends nothing loses its share of the band, and with no
    share it cannot begin to send: the method stops where no device by itself would change, which
    may be far from the best.
    """

    def plan(of):
        def go_on(carry):
            _, changed, n = carry
            return changed & (n < ROUNDS)

        def improve(carry):
            choice, _, n = carry
            _, bandwidth, compute = _best_shares(of, choice)
            better = _least(_cost_at(of, bandwidth, compute))
            return better, jnp.any(better != choice), n + 1

        start = _least(_cost_at(of, *_equal(of)))
        return _best_shares(
            of, jax.lax.while_loop(go_on, improve, (start, jnp.bool_(True), jnp.int32(0)))[0]
        )

    return planned(env, plan)


def dual_recovery(env: Fleet) -> Policy:
    """The answer that comes with the bound of `jaxcoinfer.systems.fleet.bound`."""
    return planned(env, lambda of: _best_shares(of, dual.solve(of).choice))


def exhaustive(env: Fleet) -> Policy:
    """The best of all C^D answers; for a handful of devices."""
    n_answers = env.n_choices**env.n_devices
    if n_answers > MAX_ANSWERS:
        raise ValueError(
            f"exhaustive: {env.n_choices} choices for each of {env.n_devices} devices are {n_answers} answers; at most "
            f"{MAX_ANSWERS} are tried. Use fewer devices, or `dual_recovery`, which says how far it is from the best."
        )
    digits = env.n_choices ** np.arange(env.n_devices)

    def plan(of):
        answers = (
            jnp.arange(n_answers, dtype=jnp.int32)[:, None]
            // digits[None].astype(np.int32)
            % env.n_choices
        )
        costs = jax.vmap(lambda choice: total_cost(of, choice))(answers)
        return _best_shares(of, answers[jnp.argmin(costs)])

    return planned(env, plan)


def _equal(of: FleetTables) -> tuple[jax.Array, jax.Array]:
    """One n-th for each of the n devices that are active: an absent one has zeros throughout."""
    active = ((of.base > 0.0) | (of.bandwidth > 0.0) | (of.compute > 0.0)).any(axis=1)
    share = normalised(active.astype(jnp.float32))
    return share, share
