"""Environments, and `make`, which builds one from a scenario."""

from typing import Any

import jax

from jaxcoinfer import exogenous, exogenous_on_demand, generators, generators_on_demand
from jaxcoinfer.envs import on_demand_params
from jaxcoinfer.envs.on_demand import OnDemand
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params, make_params
from jaxcoinfer.scenarios import Scenario, load_scenario, task_numbers
from jaxcoinfer.scenarios_on_demand import OnDemandScenario, grid_numbers


def make(
    scenario: str | Scenario | OnDemandScenario = "wifi", key: jax.Array | None = None, *, evaluation: bool = False
) -> tuple[Any, Any]:
    """Returns `(env, params)` of a scenario: its name, a path to its file, or the record itself.

    key draws the world (default `jax.random.key(0)`); evaluation takes recorded links from the files that learning
    never sees. Raises ProfileError or TraceError in one line that names file, field, value and what is allowed.
    """
    known = scenario if isinstance(scenario, Scenario | OnDemandScenario) else load_scenario(scenario)
    key = jax.random.key(0) if key is None else key
    if isinstance(known, OnDemandScenario):
        return _make_on_demand(known, key, evaluation)
    return _make_stopping(known, key, evaluation)


def _make_stopping(scenario: Scenario, key: jax.Array, evaluation: bool) -> tuple[Stopping, Params]:
    world = generators.draw(key, scenario, evaluation=evaluation)
    params = make_params(
        exogenous.make_bank(world),
        world.slot_bits,
        slot_s=scenario.slot_s,
        accuracy_weight=scenario.accuracy_weight,
        energy_weight=scenario.energy_weight,
        **task_numbers(scenario.task),
    )
    return Stopping(params.layer_s.shape[0] - 1), params


def _make_on_demand(
    scenario: OnDemandScenario, key: jax.Array, evaluation: bool
) -> tuple[OnDemand, on_demand_params.Params]:
    world = generators_on_demand.draw(key, scenario, evaluation=evaluation)
    numbers = grid_numbers(scenario.task)
    params = on_demand_params.make_params(
        exogenous_on_demand.make_bank(world),
        deadline_s=[c.deadline_s for c in scenario.classes],
        accuracy_weight=[c.accuracy_weight for c in scenario.classes],
        penalty=[c.penalty for c in scenario.classes],
        cap=scenario.cap,
        delay_slots=scenario.delay_slots,
        **numbers,
    )
    return OnDemand(*numbers["accuracy"].shape, n_classes=len(scenario.classes)), params
