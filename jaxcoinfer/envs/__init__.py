"""Environments, and `make`, which builds one from a scenario."""

from typing import Any

import jax
import numpy as np

from jaxcoinfer import (
    exogenous,
    exogenous_multi_user,
    exogenous_on_demand,
    generators,
    generators_fleet,
    generators_on_demand,
)
from jaxcoinfer.envs import fleet_params, multi_user_params, on_demand_params
from jaxcoinfer.envs.fleet import Fleet
from jaxcoinfer.envs.fleet_params import FleetParams
from jaxcoinfer.envs.multi_user import MultiUser
from jaxcoinfer.envs.multi_user_params import MultiUserParams
from jaxcoinfer.envs.on_demand import OnDemand
from jaxcoinfer.envs.stopping import Stopping
from jaxcoinfer.envs.stopping_params import Params, make_params
from jaxcoinfer.envs.stopping_samples import make_samples
from jaxcoinfer.scenario_processes import Split
from jaxcoinfer.scenarios import Scenario, load_scenario, task_numbers, task_samples
from jaxcoinfer.scenarios_fleet import FleetScenario, fleet_numbers
from jaxcoinfer.scenarios_multi_user import MultiUserScenario, multi_user_numbers
from jaxcoinfer.scenarios_on_demand import OnDemandScenario, grid_numbers

AnyScenario = Scenario | OnDemandScenario | FleetScenario | MultiUserScenario


def make(
    scenario: str | AnyScenario = "camera", key: jax.Array | None = None, *, split: Split = "train"
) -> tuple[Any, Any]:
    """Returns `(env, params)` of a scenario: its name, a path to its file, or the record itself.

    key draws the world (default `jax.random.key(0)`); evaluation takes recorded links from the files that learning
    never sees. Raises ProfileError or TraceError in one line that names file, field, value and what is allowed.
    """
    record = scenario if isinstance(scenario, AnyScenario) else load_scenario(scenario)
    key = jax.random.key(0) if key is None else key
    if isinstance(record, OnDemandScenario):
        return _make_on_demand(record, key, split)
    if isinstance(record, FleetScenario):
        return _make_fleet(record, key)
    if isinstance(record, MultiUserScenario):
        return _make_multi_user(record, key)
    return _make_stopping(record, key, split)


def _make_stopping(scenario: Scenario, key: jax.Array, split: Split) -> tuple[Stopping, Params]:
    params = params_of(scenario, generators.draw(key, scenario, split=split), split=split)
    return Stopping(params.layer_s.shape[0] - 1, observes_confidence=params.samples is not None), params


def params_of(scenario: Scenario, world: exogenous.Draw, *, split: Split) -> Params:
    """Returns the params of a `stopping` scenario in a world that was drawn for it; raises like `make`."""
    numbers, samples, by_image = task_numbers(scenario.task), None, task_samples(scenario.task)
    if by_image is not None:
        samples, numbers["accuracy"] = make_samples(*by_image, split=split)
    return make_params(
        exogenous.make_bank(world),
        world.slot_bits,
        slot_s=scenario.slot_s,
        accuracy_weight=scenario.accuracy_weight,
        energy_weight=scenario.energy_weight,
        samples=samples,
        **numbers,
    )


def _make_on_demand(
    scenario: OnDemandScenario, key: jax.Array, split: Split
) -> tuple[OnDemand, on_demand_params.Params]:
    world = generators_on_demand.draw(key, scenario, split=split)
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


def _make_fleet(scenario: FleetScenario, key: jax.Array) -> tuple[Fleet, FleetParams]:
    numbers = fleet_numbers(scenario)
    params = fleet_params.make_params(generators_fleet.draw(key, scenario), **numbers)
    n_versions, n_cuts = np.shape(numbers["work_flop"])
    return Fleet(scenario.devices, n_versions, n_cuts, with_cloud=scenario.cloud is not None), params


def _make_multi_user(scenario: MultiUserScenario, key: jax.Array) -> tuple[MultiUser, MultiUserParams]:
    numbers = multi_user_numbers(scenario)
    n_splits = len(numbers["compute_s"])
    starts = exogenous_multi_user.draw(key, scenario, n_splits)
    return MultiUser(scenario.users, scenario.channels, n_splits), multi_user_params.make_params(starts, **numbers)
