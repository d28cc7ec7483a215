"""Every choice of every device at once, as if that device alone had chosen so.

Axes: D devices, C choices.
"""

import jax

from jaxcoinfer.systems.fleet.allocation import cost_of_changes, total_cost
from jaxcoinfer.systems.fleet.env import Fleet, FleetState, tables
from jaxcoinfer.systems.fleet.params import FleetParams


def evaluate(env: Fleet, state: FleetState, params: FleetParams, action: jax.Array) -> jax.Array:
    """Returns the cost of all devices for each choice of each device, [D, C], infinity where it is
    invalid.

    The other devices keep their choices in `action`, [D] int32, all valid, and the best shares
    follow. So it is minus the reward of `Fleet.step` without `learned_shares`, times the tasks of
    the slot. O(D C): see `cost_of_changes`.
    """
    costs = tables(state.now, params)
    return total_cost(costs, action) + cost_of_changes(costs, action)
