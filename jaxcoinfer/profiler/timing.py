"""Seconds of each layer of an ONNX model on this machine, and the two numbers of a device that fit
them best.
"""

import dataclasses
import decimal
import importlib
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer.data.fields import ProfileError
from jaxcoinfer.profiler.from_onnx import read_onnx
from jaxcoinfer.profiler.graph import Chain

WARM_RUNS = 3  # of a layer, not timed
RUNS = 11  # of a layer, timed whatever they take
LONGEST_S = 1.0  # a layer is run more often than that until this many seconds are over
MOST_RUNS = 200
FIGURES = 4  # of seconds and peaks in a profile
_MIN_S_PER_FLOP = 1e-18  # an exaflop/s; a fit without FLOP at all would have no peak


@dataclasses.dataclass(frozen=True)
class Timing:
    """What the layers of a network take on a machine: each alone, one thread, batch 1."""

    layer_s: tuple[float, ...]  # [L], seconds, the median of the runs
    overhead_s: float  # seconds of every kernel, fitted
    peak_flops: float  # FLOP/s, fitted, above the rate of every layer
    machine: str  # in words
    runtime: str  # what ran the layers, with its version
    runs: int = RUNS  # of each layer, at least


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
            reason = " ".join(str(error).split())[:200]
            raise ProfileError(
                f"latency was not measured: layer '{layer.name}' does not run alone: {reason}"
            ) from None
    return fitted(chain, seconds, f"onnxruntime {runtime.__version__}")


def fitted(chain: Chain, seconds: Sequence[float], runtime: str) -> Timing:
    """Returns the timing of this machine whose layers took these seconds [L], rounded as a profile
    holds them.

    Rounded before anything is derived: a peak fitted to seconds that are rounded afterwards could
    be below the rate of a layer, and the loader refuses such a profile.
    """
    layer_s = tuple(rounded(s) for s in seconds)
    kernels, flop = zip(*((layer.kernels, layer.flop) for layer in chain.layers), strict=True)
    overhead_s, peak_flops = fit(layer_s, kernels, flop)
    machine = f"{processor()}, {platform.system()}"
    return Timing(layer_s, overhead_s, peak_flops, machine, runtime)


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
    lowest = min(fastest * _MIN_S_PER_FLOP, 0.5)
    overhead, slowness = lsq_linear(
        columns, np.ones(len(seconds)), bounds=([0.0, lowest], [np.inf, 1.0])
    ).x
    return float(overhead) * unit_s, rounded_up(fastest / float(slowness))


def rounded(number: float) -> float:
    """Returns `number` in the figures that a profile holds."""
    return float(f"{number:.{FIGURES}g}")


def rounded_up(number: float) -> float:
    """Returns the next number above a positive one that has the figures that a profile holds.

    Never the number itself: a layer must not beat the peak that its own rate became, not even by
    the rounding of a division.
    """
    above = decimal.Decimal(math.nextafter(number, math.inf))
    return float(decimal.Context(prec=FIGURES).next_plus(above))


def _median_s(runtime: Any, model: bytes) -> float:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, need not be printed too
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    inputs = {value.name: _values(value)}
    for _ in range(WARM_RUNS):
        session.run(None, inputs)
    durations_s: list[float] = []
    while len(durations_s) < RUNS or (
        sum(durations_s) < LONGEST_S and len(durations_s) < MOST_RUNS
    ):
        begin_s = time.perf_counter()
        session.run(None, inputs)
        durations_s.append(time.perf_counter() - begin_s)
    return float(np.median(durations_s))


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
