"""What policies of `fleet` do on held-out rows: every task of every device, and the certified bound
of every slot.

A decision of a fleet changes nothing but its own slot, so all policies decide each slot of each
row, side by side. Axes: K rows, T slots, D devices, N tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcoinfer.core.contract import Env
from jaxcoinfer.core.rollout import Policy, act
from jaxcoinfer.evaluation.evaluate import Tasks
from jaxcoinfer.evaluation.executor import Learned
from jaxcoinfer.systems.fleet.allocation import allocate, chosen
from jaxcoinfer.systems.fleet.bound import solve
from jaxcoinfer.systems.fleet.env import Fleet, tables
from jaxcoinfer.systems.fleet.params import FleetParams
from jaxcoinfer.systems.fleet.policies import EnvPolicy


@dataclass(frozen=True)
class FleetTasks(Tasks):
    """Every task of one policy, arrays [N].

    Its shares are those of least cost for all choices of the slot, which it really has where shares
    are not learned.
    """

    slot: np.ndarray  # int
    device: np.ndarray  # int, index
    kind: np.ndarray  # int, what kind of machine the device is
    urgent: np.ndarray  # bool, whether latency matters more than accuracy
    bandwidth: np.ndarray  # share of the link
    compute: np.ndarray  # share of the server


def player(
    policies: Mapping[str, EnvPolicy],
) -> Callable[[FleetParams], dict[str, list[FleetTasks]]]:
    """Returns the function from the numbers of a fleet to the tasks of every policy, of each seed
    that it was learned from; it compiles once for numbers of equal shapes.
    """
    weights = {
        name: policy.weights
        for name, (_, policy) in policies.items()
        if isinstance(policy, Learned)
    }

    @jax.jit
    def decide_all(params: FleetParams, weights: Any) -> dict[str, dict[str, jax.Array]]:
        def in_slot(row: jax.Array, slot: jax.Array) -> dict[str, dict[str, jax.Array]]:
            return {
                name: _decide(
                    env,
                    policy.policy(weights[name]) if isinstance(policy, Learned) else policy,
                    row,
                    slot,
                    params,
                )
                for name, (env, policy) in policies.items()
            }

        return _by_slot(params, in_slot)

    def play(params: FleetParams) -> dict[str, list[FleetTasks]]:
        n_seeds = jax.tree.leaves(weights)[0].shape[0] if weights else 1
        by_seed = [
            jax.tree.map(
                np.asarray,
                decide_all(params, jax.tree.map(lambda leaf, seed=seed: leaf[seed], weights)),
            )
            for seed in range(n_seeds)
        ]
        return {
            name: [
                _tasks(each[name], params) for each in (by_seed if name in weights else by_seed[:1])
            ]
            for name in policies
        }

    return play


def certified(env: Fleet, params: FleetParams) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least cost per task that any policy can have in each row, [K], and the cost of
    the answer that comes with this bound.
    """
    n_tasks = np.maximum(np.asarray(params.bank.active)[:, :-1].sum(axis=(1, 2)), 1)
    bound, cost = (
        np.asarray(by_slot, np.float64).sum(axis=0) / n_tasks
        for by_slot in _certificates(env, params)
    )
    return bound, cost


@partial(jax.jit, static_argnums=0)
def _certificates(env: Fleet, params: FleetParams) -> tuple[jax.Array, jax.Array]:
    """Bound and cost of all devices in each slot, [T, K]."""

    def in_slot(row: jax.Array, slot: jax.Array) -> tuple[jax.Array, jax.Array]:
        state, _ = env.reset_at(row, slot, params)
        certificate = solve(tables(state.now, params))
        return certificate.bound, certificate.cost

    return _by_slot(params, in_slot)


def _by_slot(params: FleetParams, function: Callable[[jax.Array, jax.Array], Any]) -> Any:
    """What `function(row, slot)` returns, leaves [T, K, ...]: slots one after another, rows side by
    side.
    """
    rows, slots = (
        jnp.arange(n, dtype=jnp.int32) for n in (params.bank.n_rows, params.bank.n_slots)
    )
    return jax.lax.scan(
        lambda _, slot: (None, jax.vmap(function, (0, None))(rows, slot)), None, slots
    )[1]


def _decide(
    env: Env, policy: Policy, row: jax.Array, slot: jax.Array, params: FleetParams
) -> dict[str, jax.Array]:
    """The tasks of one slot as a policy decides them, [D] each."""
    state, timestep = env.reset_at(row, slot, params)
    # None of them draws.
    action = act(env, policy, jax.random.key(0), state, timestep.observation, params)
    outcome = env.step(state, action, params)[1].outcome
    costs = chosen(tables(state.now, params), outcome.choice)
    bandwidth, compute = allocate(costs.bandwidth, costs.compute)
    shared = {f.name: getattr(outcome, f.name) for f in fields(Tasks) if hasattr(outcome, f.name)}
    return shared | {
        "urgent": outcome.latency_sensitive,
        "finished": outcome.finished,
        "kind": state.now.kind,
        "bandwidth": bandwidth,
        "compute": compute,
    }


def _tasks(decided: dict[str, np.ndarray], params: FleetParams) -> FleetTasks:
    """The entries of arrays [T, K, D] that are tasks."""
    finished = decided["finished"]
    slot, row, device = np.nonzero(finished)
    n_rows = params.bank.n_rows
    decisions = np.bincount(row, minlength=n_rows)
    numbers = {name: values[finished] for name, values in decided.items() if name != "finished"}
    return FleetTasks(
        row=row, slot=slot, device=device, decisions=decisions, n_rows=n_rows, **numbers
    )
