"""Vectorised simulation, digital twins, bounds and learning for device-edge DNN inference, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcoinfer.envs import make

__version__ = "0.1.0"
__all__ = ["__version__", "make"]


def __getattr__(name: str) -> Any:
    """Imports `make`, and with it JAX, when it is asked for: what needs no JAX starts at once."""
    if name == "make":
        from jaxcoinfer.envs import make

        return make
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
