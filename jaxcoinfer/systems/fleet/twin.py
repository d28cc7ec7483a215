"""Every choice of every device at once, as if that device alone had chosen so. Axes: D devices, C
choices.
"""

import jax

from jaxcoinfer.systems.fleet.allocation import cost_of_changes, total_cost
from jaxcoinfer.systems.fleet.env import FleetState, tables
from jaxcoinfer.systems.fleet.params import FleetParams


def evaluate(state: FleetState, choice: jax.Array, params: FleetParams) -> jax.Array:
    """Returns the cost of all devices for each choice of each device, [D, C], infinity where it is
    not valid.

    The others hold to `choice` [D] int32, which must be valid, and shares follow; so it is what
    `Fleet.step` gives without `learned_shares`, its reward times the tasks of the slot, negative.
    O(D C): see `cost_of_changes`.
    """
    costs = tables(state, params)
    return total_cost(costs, choice) + cost_of_changes(costs, choice)
