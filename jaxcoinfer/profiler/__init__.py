"""Profiles of networks that exist: an ONNX file or a Flax module in, a DNN profile and its seconds
out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcoinfer.profiler.from_flax import read_flax
from jaxcoinfer.profiler.from_onnx import read_onnx
from jaxcoinfer.profiler.graph import Chain, Layer, divide, named
from jaxcoinfer.profiler.timing import Timing, processor, time_onnx
from jaxcoinfer.profiler.writing import device_toml, dnn_toml, write_new

__all__ = [
    "Chain",
    "Layer",
    "Timing",
    "device_toml",
    "dnn_toml",
    "processor",
    "profile_flax",
    "profile_onnx",
    "time_onnx",
    "write_new",
]


def profile_onnx(
    path: str | Path, *, name: str | None = None, input_shape: Sequence[int] | None = None
) -> Chain:
    """The layers of the network in an ONNX file: FLOP, kernels, elements put out, parameters.

    name: else the file's. input_shape: sizes for those that the file leaves open; an open batch is
    1 anyway. Raises ProfileError in one line that names the file, the node and what to do.
    """
    _, graph = read_onnx(Path(path), input_shape)
    return divide(graph, named(Path(path).stem) if name is None else name)


def profile_flax(
    module: Any, input_shape: Sequence[int], *, name: str | None = None, **call: Any
) -> Chain:
    """The layers of a Flax Linen module called as `module.apply(variables, x, **call)`, x float32,
    batch 1 first.

    name: else the module's class. Nothing is computed: no weights are needed, and none are made.
    Raises ProfileError.
    """
    graph = read_flax(module, input_shape, call)
    return divide(graph, named(graph.origin) if name is None else name)
