"""The systems that can be run, by name."""

from jaxcoinfer.runs import fleet, on_demand, stopping
from jaxcoinfer.runs.types import System

SYSTEMS: dict[str, System] = {"stopping": stopping, "on-demand": on_demand, "fleet": fleet}
