"""Every action of an `on-demand` task at once, as if each had been taken. Axes: A actions."""

import jax
import jax.numpy as jnp

from jaxcoinfer.systems.on_demand import env as on_demand
from jaxcoinfer.systems.on_demand.env import OnDemand, State
from jaxcoinfer.systems.on_demand.exogenous import Slot
from jaxcoinfer.systems.on_demand.params import Params


class Choices(on_demand.Costs):
    """`Costs` of every action of one task, [A] each; utility is minus infinity where the action is
    not valid.
    """


def evaluate(env: OnDemand, state: State, params: Params) -> Choices:
    """Returns what each action gives in the slot as it truly is, equal to what the environment
    pays, [A].

    It reads rate and speeds that the device learns later: to learn from tasks that are over, and to
    say what full information would be worth.
    """
    return _all(env, state.now, state, params)


def forecast(env: OnDemand, state: State, params: Params) -> Choices:
    """Returns what each action gives if rate and speeds still are as last seen, [A]."""
    return _all(env, state.seen, state, params)


def _all(env: OnDemand, slot: Slot, state: State, params: Params) -> Choices:
    actions = jnp.arange(env.n_actions, dtype=jnp.int32)
    costs = on_demand.price(params, slot, state.now.task_class, actions)
    wide = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, actions.shape), costs)
    return Choices(**vars(wide)).replace(utility=jnp.where(params.valid, wide.utility, -jnp.inf))
