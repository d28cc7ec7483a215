"""Every action for an `on-demand` task at once, as if each had been taken. Axes: A actions."""

import jax
import jax.numpy as jnp

from jaxcoinfer.systems.on_demand.env import Costs, OnDemand, State, price
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params


class Choices(Costs):
    """`Costs` of every action for one task, [A] each; utility is minus infinity where the action is
    invalid.
    """


def evaluate(env: OnDemand, state: State, params: Params) -> Choices:
    """Returns what each action gives in the true current slot, [A]: what the environment pays.

    It reads rate and speeds that the device learns later. Use it to learn from finished tasks, and
    to find what full information would be worth.
    """
    return _every_action(env, state.now, state, params)


def forecast(env: OnDemand, state: State, params: Params) -> Choices:
    """Returns what each action gives if rate and speeds are still as last observed, [A]."""
    return _every_action(env, state.seen, state, params)


def _every_action(env: OnDemand, slot: Slot, state: State, params: Params) -> Choices:
    actions = jnp.arange(env.n_actions, dtype=jnp.int32)
    costs = price(params, slot, state.task_class, actions)
    by_action = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, actions.shape), costs)
    utility = jnp.where(params.valid, by_action.utility, -jnp.inf)
    return Choices(**vars(by_action)).replace(utility=utility)
