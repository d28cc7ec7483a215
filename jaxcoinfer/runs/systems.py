"""The systems that can be run, by name."""

from jaxcoinfer.runs import stopping
from jaxcoinfer.runs.types import System

SYSTEMS: dict[str, System] = {"stopping": stopping}
