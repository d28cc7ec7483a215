"""What policies of `fleet` do on held-out rows: every task of every device, and the certified bound
of every slot.

A decision of a fleet changes nothing but its own slot, so all policies are asked about each slot of
each row, side by side. Axes: K rows, T slots, D devices, N tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.rollout import Policy
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.systems.fleet import bound as dual
from jaxcoinfer.systems.fleet import env as fleet
from jaxcoinfer.systems.fleet.allocation import allocate, chosen
from jaxcoinfer.systems.fleet.env import Fleet
from jaxcoinfer.systems.fleet.exogenous import slot_at
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import EnvPolicy


@dataclass(frozen=True)
class FleetTasks(Tasks):
    """Every task of one policy, arrays [N].

    slot; device, and what kind of machine it is; urgent: whether latency matters more than
    accuracy; bandwidth, compute: the shares of least cost for all choices of the slot, which the
    task has where shares are not learned.
    """

    slot: np.ndarray
    device: np.ndarray
    kind: np.ndarray
    urgent: np.ndarray
    bandwidth: np.ndarray
    compute: np.ndarray


def player(policies: Mapping[str, EnvPolicy]) -> Callable[[FleetParams], dict[str, FleetTasks]]:
    """Returns the function from the numbers of a fleet to every contender's tasks; of equal shapes
    it compiles once.
    """

    @jax.jit
    def of_all(params):
        return _by_slot(params, lambda row, slot: _ask_all(policies, row, slot, params))

    def play(params: FleetParams) -> dict[str, FleetTasks]:
        found = jax.tree.map(np.asarray, of_all(params))
        return {name: _tasks(found[name], params) for name in policies}

    return play


def certified(env: Fleet, params: FleetParams) -> tuple[np.ndarray, np.ndarray]:
    """Returns of each row, [K], what no policy's cost of a task is below, and the cost of the
    answer found with it.
    """
    tasks = np.maximum(np.asarray(params.bank.active)[:, :-1].sum(axis=(1, 2)), 1)
    bound, cost = (
        np.asarray(of_slots, np.float64).sum(axis=0) / tasks
        for of_slots in _certificates(env, params)
    )
    return bound, cost


@partial(jax.jit, static_argnums=0)
def _certificates(env: Fleet, params: FleetParams) -> tuple[jax.Array, jax.Array]:
    """Bound and cost of all devices in each slot, [T, K]."""

    def of_slot(row, slot):
        state, _ = env.reset_at(row, slot, params)
        found = dual.solve(fleet.tables(state, params))
        return found.bound, found.cost

    return _by_slot(params, of_slot)


def _by_slot(params: FleetParams, function: Callable) -> Any:
    """What `function(row, slot)` gives, leaves [T, K, ...]: slots one after another, rows side by
    side.
    """
    rows, slots = (
        jnp.arange(n, dtype=jnp.int32) for n in (params.bank.n_rows, params.bank.n_slots)
    )
    return jax.lax.scan(
        lambda _, slot: (None, jax.vmap(function, (0, None))(rows, slot)), None, slots
    )[1]


def _ask_all(
    policies: Mapping[str, EnvPolicy], row: jax.Array, slot: jax.Array, params: FleetParams
) -> Any:
    return {name: _ask(env, policy, row, slot, params) for name, (env, policy) in policies.items()}


def _ask(
    env: Any, policy: Policy, row: jax.Array, slot: jax.Array, params: FleetParams
) -> dict[str, jax.Array]:
    """What comes of one slot, [D] each."""
    state, timestep = env.reset_at(row, slot, params)
    action = policy(jax.random.key(0), state, timestep.observation, params)  # none of them draws
    outcome = env.step(state, action, params)[1].outcome
    costs = chosen(fleet.tables(state, params), outcome.choice)
    bandwidth, compute = allocate(costs.bandwidth, costs.compute)
    found = {f.name: getattr(outcome, f.name) for f in fields(Tasks) if hasattr(outcome, f.name)}
    found |= {"urgent": outcome.latency_sensitive, "finished": outcome.finished}
    return found | {
        "kind": slot_at(params.bank, row, slot).kind,
        "bandwidth": bandwidth,
        "compute": compute,
    }


def _tasks(found: dict[str, np.ndarray], params: FleetParams) -> FleetTasks:
    """Keeps what was a task, of arrays [T, K, D]."""
    finished = found.pop("finished")
    slot, row, device = np.nonzero(finished)
    n_rows = params.bank.n_rows
    counted = np.bincount(row, minlength=n_rows)
    kept = {name: values[finished] for name, values in found.items()}
    return FleetTasks(row=row, slot=slot, device=device, decisions=counted, n_rows=n_rows, **kept)
