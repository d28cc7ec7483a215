"""Vectorised simulation, digital twins, bounds and learning for device-edge DNN inference."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcoinfer.systems.registry import list_scenarios, load_scenario, make

__version__ = "0.1.0"
__all__ = ["__version__", "list_scenarios", "load_scenario", "make"]


def __getattr__(name: str) -> Any:
    """Imports the registry on first use, so that what does not need it starts at once."""
    if name in __all__:
        from jaxcoinfer.systems import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
