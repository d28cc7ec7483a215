"""The one list of systems: what each is called, its default scenario, and where its parts are.

A part is imported when it is asked for, so that reading a scenario needs no JAX and one system
loads no other.
"""

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxcoinfer.data.fields import (
    Place,
    ProfileError,
    check_sources,
    nearest,
    read_table,
    structure,
    word,
)
from jaxcoinfer.data.processes import Split
from jaxcoinfer.data.profiles import profiles_root


@dataclasses.dataclass(frozen=True)
class Registered:
    """A system: its name, its folder below `jaxcoinfer.systems`, the class of its scenarios, its
    default scenario.
    """

    name: str
    folder: str
    record: str
    default_scenario: str

    def part(self, name: str) -> ModuleType:
        """Returns the module `name` of the system's folder: "scenario", "make" or "run"."""
        return importlib.import_module(f"jaxcoinfer.systems.{self.folder}.{name}")

    @property
    def scenario_class(self) -> Any:
        """The record that its scenarios are read into."""
        return getattr(self.part("scenario"), self.record)


SYSTEMS = {
    system.name: system
    for system in (
        Registered("stopping", "stopping", "StoppingScenario", "camera"),
        Registered("on-demand", "on_demand", "OnDemandScenario", "on-demand-markov"),
        Registered("fleet", "fleet", "FleetScenario", "fleet"),
        Registered("multi-user", "multi_user", "MultiUserScenario", "multi-user"),
    )
}


def list_scenarios() -> tuple[str, ...]:
    """Names of the shipped scenarios, in alphabetical order."""
    return tuple(sorted(path.stem for path in (profiles_root() / "scenarios").glob("*.toml")))


def load_scenario(name_or_path: str | Path) -> Any:
    """Reads the scenario of that name, or in the file at that path (one with a `/` or `.toml`).

    Returns the record of its `system`. Raises ProfileError in one line that names file, field,
    value and what is allowed.
    """
    name = str(name_or_path)
    bare = not (name.endswith(".toml") or "/" in name or "\\" in name)
    path = profiles_root() / "scenarios" / f"{name}.toml" if bare else Path(name)
    if not path.is_file():
        known = list(list_scenarios())
        what = f"unknown scenario '{name}'" if bare else f"{name}: no such scenario file"
        raise ProfileError(
            f"{what}; shipped scenarios: {', '.join(known)}{nearest(path.stem, known)}"
        )
    table, place = read_table(path, "scenario")
    scenario = scenario_from(table, place)
    check_sources(table, place)
    return scenario


def scenario_from(table: dict[str, Any], place: Place) -> Any:
    """Returns the scenario that a table says, of whichever system it names. Raises ProfileError."""
    system = table.get("system", "stopping")
    registered = SYSTEMS[word(*SYSTEMS)(system, place.at("system"))]
    scenario = structure(registered.scenario_class, table, place)
    check = getattr(registered.part("scenario"), "check", None)
    if check is not None:
        check(scenario, place)
    return scenario


def make(scenario: Any = "camera", key: Any = None, *, split: Split = "train") -> tuple[Any, Any]:
    """Returns `(env, params)` of a scenario: its name, a path to its file, or the record itself.

    key draws the world (default `jax.random.key(0)`); split "validation" or "test" takes recorded
    links, parts of arrival logs and images that learning never sees. Raises ProfileError or
    TraceError in one line that names file, field, value and what is allowed.
    """
    record = load_scenario(scenario) if isinstance(scenario, str | Path) else scenario
    if key is None:
        import jax

        key = jax.random.key(0)
    return SYSTEMS[record.system].part("make").make(record, key, split=split)
