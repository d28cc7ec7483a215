"""With what a result was made."""

import importlib.metadata
from typing import Any

import jax

import jaxcoinfer


def versions() -> dict[str, Any]:
    """Returns with what a run was made: versions of what decides numbers, and the kind of device."""
    installed = {
        name: importlib.metadata.version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "numpy")
    }
    devices = [device.device_kind for device in jax.devices()]
    return {"versions": {"jaxcoinfer": jaxcoinfer.__version__, **installed}, "devices": devices}
