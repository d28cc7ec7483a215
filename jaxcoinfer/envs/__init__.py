"""Environments, and `make`, which builds one from a scenario."""

import jax

from jaxcoinfer import exogenous, generators
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import make_params
from jaxcoinfer.scenarios import Scenario, load_scenario, task_numbers


def make(scenario: str | Scenario = "wifi", key: jax.Array | None = None, *, evaluation: bool = False):
    """Returns `(env, params)` of a scenario: its name, a path to its file, or the record itself.

    key draws the world (default `jax.random.key(0)`); evaluation takes recorded links from the files that learning
    never sees. Raises ProfileError or TraceError in one line that names file, field, value and what is allowed.
    """
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario)
    world = generators.draw(jax.random.key(0) if key is None else key, scenario, evaluation=evaluation)
    params = make_params(
        exogenous.make_bank(world),
        world.slot_bits,
        slot_s=scenario.slot_s,
        accuracy_weight=scenario.accuracy_weight,
        energy_weight=scenario.energy_weight,
        **task_numbers(scenario.task),
    )
    return Stopping(params.layer_s.shape[0] - 1), params
