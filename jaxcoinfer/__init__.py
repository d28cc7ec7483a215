"""Vectorised simulation, digital twins, bounds and learning for device-edge DNN inference, in JAX."""

from jaxcoinfer.envs import make

__version__ = "0.1.0"
__all__ = ["__version__", "make"]
