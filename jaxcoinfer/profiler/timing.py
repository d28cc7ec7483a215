"""Seconds of each layer of an ONNX model on this machine, and the two numbers of a device that fit
them best.
"""

import dataclasses
import importlib
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.profiler.from_onnx import read_onnx
from jaxcoinfer.profiler.graph import Chain

WARM_RUNS, RUNS, LONGEST_S = (
    3,
    11,
    1.0,
)  # of a layer: ignored first, timed at least, timed for longer if cheap
MOST_RUNS = 200
_LEAST_S_PER_FLOP = 1e-18  # an exaflop/s; a fit without FLOP at all would have no peak


@dataclasses.dataclass(frozen=True)
class Timing:
    """layer_s [L]: seconds of each layer alone, the median of `runs` or more, in one thread, batch
    1.
    """

    layer_s: tuple[float, ...]
    overhead_s: float
    peak_flops: float
    machine: str
    runtime: str
    runs: int = RUNS


def time_onnx(path: str | Path, chain: Chain) -> Timing:
    """Runs each layer of `chain`, which was made from that file, with onnxruntime on one thread.

    Raises ProfileError when onnxruntime is not there or cannot run a layer.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ProfileError(
            "latency was not measured: pip install onnxruntime, then make the profile again"
        ) from None
    model, _ = read_onnx(Path(path), chain.input.shape)
    extractor = importlib.import_module("onnx.utils").Extractor(model)
    seconds = []
    for layer in chain.layers:
        try:
            part = extractor.extract_model([layer.begin], [layer.end]).SerializeToString()
            seconds.append(_median_s(runtime, part))
        except Exception as error:  # onnxruntime has a class for every status
            said = " ".join(str(error).split())[:200]
            raise ProfileError(
                f"latency was not measured: layer '{layer.name}' does not run alone: {said}"
            ) from None
    layer_s = tuple(float(f"{s:.4g}") for s in seconds)
    kernels, flop = zip(*((layer.kernels, layer.flop) for layer in chain.layers), strict=True)
    overhead_s, peak_flops = fit(layer_s, kernels, flop)
    return Timing(
        layer_s,
        overhead_s,
        peak_flops,
        f"{processor()}, {platform.system()}",
        f"onnxruntime {runtime.__version__}",
    )


def fit(
    layer_s: Sequence[float], kernels: Sequence[int], flop: Sequence[float]
) -> tuple[float, float]:
    """(overhead_s, peak_flops) of least Σ ((kernels * overhead_s + flop / peak_flops) / layer_s -
    1)².

    peak_flops is no less than the rate of the fastest layer, as no machine beats its own peak.
    """
    from scipy.optimize import lsq_linear

    seconds = np.asarray(layer_s)
    fastest = max(np.max(flop / seconds), 1.0)
    # In units of the fastest rate and the mean overhead, else one column is 1e12 times the other.
    unit_s = float(np.mean(seconds / kernels))
    columns = np.stack(
        [np.asarray(kernels) * unit_s / seconds, np.asarray(flop) / fastest / seconds], axis=1
    )
    least = fastest * _LEAST_S_PER_FLOP
    found = lsq_linear(columns, np.ones(len(seconds)), bounds=([0.0, least], [np.inf, 1.0])).x
    return float(found[0]) * unit_s, _up(fastest / float(found[1]))


def _up(number: float) -> float:
    """`number`, rounded up to four figures: a rate rounded down would be beaten by the layer it
    came from.
    """
    step = 10.0 ** (np.floor(np.log10(number)) - 3)
    return float(f"{(np.floor(number / step) + 1) * step:.4g}")


def _median_s(runtime: Any, model: bytes) -> float:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, need not be printed too
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    given = {value.name: _values(value)}
    for _ in range(WARM_RUNS):
        session.run(None, given)
    taken: list[float] = []
    while len(taken) < RUNS or (sum(taken) < LONGEST_S and len(taken) < MOST_RUNS):
        begin_s = time.perf_counter()
        session.run(None, given)
        taken.append(time.perf_counter() - begin_s)
    return float(np.median(taken))


def _values(value: Any) -> np.ndarray:
    """Random values for an input: zeros could be faster, denormal numbers slower than what a
    network sees.
    """
    names = {"float": "float32", "double": "float64"}
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return (np.random.default_rng(0).random(value.shape) * 4).astype(names.get(kind, kind))


def processor() -> str:
    """The processor of this machine, in words."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text("utf-8", "replace").splitlines())
        names = [value.strip() for key, _, value in lines if key.strip() in ("model name", "Model")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
