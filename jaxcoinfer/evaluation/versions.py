"""What a result was made with."""

import importlib.metadata
from typing import Any

import jax

import jaxcoinfer


def versions() -> dict[str, Any]:
    """Returns the versions of all packages that decide numbers, and the kinds of the devices."""
    installed = {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "numpy")
    }
    devices = [device.device_kind for device in jax.devices()]
    return {"versions": {"jaxcoinfer": jaxcoinfer.__version__, **installed}, "devices": devices}
