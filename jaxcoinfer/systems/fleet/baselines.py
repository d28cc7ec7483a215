"""Baselines for `fleet`. Each function returns a policy
`(key, state, observation, params) -> action`.

Each plans choices, [D], and shares to go with them, [D] each; where the environment itself finds
the best shares for the choices, only the choices are played. Axes: D devices, C choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Oracle, Policy
from jaxcoinfer.systems.fleet.allocation import (
    FleetTables,
    allocate,
    chosen,
    descend,
    normalised,
    total_cost,
)
from jaxcoinfer.systems.fleet.bound import solve
from jaxcoinfer.systems.fleet.env import Fleet, FleetAction, FleetState, tables
from jaxcoinfer.systems.fleet.params import FleetParams

Plan = tuple[jax.Array, jax.Array, jax.Array]  # choice, bandwidth, compute
Planner = Callable[[FleetTables], Plan]

ROUNDS = 50  # of alternating optimisation, which needs a handful
MAX_ANSWERS = 1 << 21  # that `exhaustive` tries


def planned(env: Fleet, plan: Planner) -> Policy:
    """Plays `plan(tables of this slot)` in every slot."""

    def act(key: jax.Array, state: FleetState, observation: jax.Array, params: FleetParams) -> Any:
        choice, bandwidth, compute = plan(tables(state.seen, params))
        return FleetAction(choice, bandwidth, compute) if env.learned_shares else choice

    return act


def _best_shares(costs: FleetTables, choice: jax.Array) -> Plan:
    own = chosen(costs, choice)
    return choice, *allocate(own.bandwidth, own.compute)


def _cost_at(costs: FleetTables, bandwidth: jax.Array, compute: jax.Array) -> jax.Array:
    """Costs [D, C] with these shares [D]; infinity where a device has no share of what it needs."""

    def part(whole: jax.Array, share: jax.Array) -> jax.Array:
        return jnp.where(whole > 0.0, whole / jnp.where(share > 0.0, share, jnp.inf)[:, None], 0.0)

    starved = ((bandwidth == 0.0)[:, None] & (costs.bandwidth > 0.0)) | (
        (compute == 0.0)[:, None] & (costs.compute > 0.0)
    )
    cost = costs.base + part(costs.bandwidth, bandwidth) + part(costs.compute, compute)
    return jnp.where(starved, jnp.inf, cost)


def _cheapest(cost: jax.Array) -> jax.Array:
    """Each device's choice of least cost [D, C], int32 [D]."""
    return jnp.argmin(cost, axis=1).astype(jnp.int32)


def _restricted(costs: FleetTables, allowed: np.ndarray) -> FleetTables:
    """The tables with infinite cost of all choices but the `allowed` ones, [C] bool."""
    return costs.replace(base=jnp.where(allowed[None], costs.base, jnp.inf))


def _best_within(costs: FleetTables, allowed: np.ndarray) -> jax.Array:
    """Choices among `allowed` that no single change improves, starting from the best choice of each
    device on its own.
    """
    within = _restricted(costs, allowed)
    start = _cheapest(within.base + within.bandwidth + within.compute)
    return descend(within, start, 4 * start.shape[0])


def device_only(env: Fleet) -> Policy:
    """Every task wholly on its device, in the version that costs it least."""
    _, cut, _ = env.parts(np.arange(env.n_choices))

    def plan(costs: FleetTables) -> Plan:
        return _best_shares(costs, _cheapest(_restricted(costs, cut == env.n_cuts - 1).base))

    return planned(env, plan)


def edge_only(env: Fleet) -> Policy:
    """Every input to the server, which runs it all, in versions that no single change improves."""
    _, cut, second = env.parts(np.arange(env.n_choices))
    allowed = (cut == 0) & (second == env.n_cuts - 1)
    return planned(env, lambda costs: _best_shares(costs, _best_within(costs, allowed)))


def one_version(env: Fleet) -> Policy:
    """The same version for all, the best one, with cuts that no single change improves."""
    version, _, _ = env.parts(np.arange(env.n_choices))

    def plan(costs: FleetTables) -> Plan:
        choices = [_best_within(costs, version == v) for v in range(env.n_versions)]
        totals = jnp.stack([total_cost(costs, choice) for choice in choices])
        return _best_shares(costs, jnp.stack(choices)[jnp.argmin(totals)])

    return planned(env, plan)


def equal_shares(env: Fleet) -> Policy:
    """Shares of 1 / n for each of n active devices, and the choice that then costs each least."""

    def plan(costs: FleetTables) -> Plan:
        return _cheapest(_cost_at(costs, *_equal(costs))), *_equal(costs)

    return planned(env, plan)


def greedy(env: Fleet) -> Policy:
    """Each device chooses as if it had all the band and the server to itself; then the best shares
    for these choices.
    """

    def plan(costs: FleetTables) -> Plan:
        return _best_shares(costs, _cheapest(costs.base + costs.bandwidth + costs.compute))

    return planned(env, plan)


def alternating(env: Fleet) -> Policy:
    """From equal shares: best choices for the shares, best shares for the choices, until nothing
    changes.

    The cost never rises. A device that once sends nothing loses its share of the band, and without
    one it cannot begin to send: the method stops where no device would change on its own, which may
    be far from the best.
    """

    def plan(costs: FleetTables) -> Plan:
        def go_on(carry: tuple) -> jax.Array:
            _, changed, n = carry
            return changed & (n < ROUNDS)

        def improve(carry: tuple) -> tuple:
            choice, _, n = carry
            _, bandwidth, compute = _best_shares(costs, choice)
            better = _cheapest(_cost_at(costs, bandwidth, compute))
            return better, jnp.any(better != choice), n + 1

        start = _cheapest(_cost_at(costs, *_equal(costs)))
        choice, _, _ = jax.lax.while_loop(go_on, improve, (start, jnp.bool_(True), jnp.int32(0)))
        return _best_shares(costs, choice)

    return planned(env, plan)


def dual_recovery(env: Fleet) -> Policy:
    """The answer that comes with the bound of `jaxcoinfer.systems.fleet.bound`."""
    return planned(env, lambda costs: _best_shares(costs, solve(costs).choice))


def informed(env: Fleet, baseline: Callable[[Fleet], Policy]) -> Policy:
    """A baseline on what is true in this slot, where links and loads are known a slot late; no
    server can do this.
    """
    policy = baseline(env)

    def act(key: jax.Array, state: FleetState, observation: jax.Array, params: FleetParams) -> Any:
        return policy(key, state.replace(seen=state.now), observation, params)

    return Oracle(act)


def exhaustive(env: Fleet) -> Policy:
    """The best of all C^D answers; for a handful of devices."""
    n_answers = env.n_choices**env.n_devices
    if n_answers > MAX_ANSWERS:
        raise ValueError(
            f"exhaustive: {env.n_choices} choices for each of {env.n_devices} devices are "
            f"{n_answers} answers; at most {MAX_ANSWERS} are tried. Use fewer devices, or "
            "`dual_recovery`, which says how far it is from the best."
        )
    digits = env.n_choices ** np.arange(env.n_devices)

    def plan(costs: FleetTables) -> Plan:
        answers = (
            jnp.arange(n_answers, dtype=jnp.int32)[:, None]
            // digits[None].astype(np.int32)
            % env.n_choices
        )
        totals = jax.vmap(lambda choice: total_cost(costs, choice))(answers)
        return _best_shares(costs, answers[jnp.argmin(totals)])

    return planned(env, plan)


def _equal(costs: FleetTables) -> tuple[jax.Array, jax.Array]:
    """Shares of 1 / n for each of n active devices; absent ones have zeros throughout."""
    active = ((costs.base > 0.0) | (costs.bandwidth > 0.0) | (costs.compute > 0.0)).any(axis=1)
    share = normalised(active.astype(jnp.float32))
    return share, share
