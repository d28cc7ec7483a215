"""The one way times are taken: compilation apart, whole output waited for, median of several calls,
one JSON line.

line = measure("name", function, *arguments)      # {"compile_s": …, "median_s": …, …}
record("stopping", line | {"decisions_per_s": …})  # benchmarks/results/stopping.jsonl
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcoinfer.profiler import processor

RESULTS = Path(__file__).parent / "results"
UNROLL = (
    2  # steps a turn of a loop that is timed: every other step then need not copy what it carries
)


def measure(name: str, function: Callable, *arguments: Any, repeats: int = 7) -> dict[str, Any]:
    """Times a jittable function of arrays: seconds to compile, then minimum, median and maximum of
    the calls.

    memory_mib: arguments, results and temporaries of the program.
    """
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - begin
    jax.block_until_ready(compiled(*arguments))
    calls_s = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        calls_s.append(time.perf_counter() - begin)
    return {
        "name": name,
        "compile_s": round(compile_s, 3),
        "median_s": statistics.median(calls_s),
        "min_s": min(calls_s),
        "max_s": max(calls_s),
        "repeats": repeats,
        "memory_mib": _memory_mib(compiled.memory_analysis()),
    }


def _memory_mib(used: Any) -> float:
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(used, part, 0) for part in parts) / 2**20


def coins(seeds: jax.Array) -> jax.Array:
    """Returns one step of a 32-bit linear congruential generator, uint32: cheap actions, whose high
    bits are good.
    """
    return seeds * jnp.uint32(1664525) + jnp.uint32(1013904223)


def machine() -> dict[str, Any]:
    """What ran: device, processor, cores, versions, commit of the code."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}:{device.device_kind}",
        "n_devices": jax.device_count(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "commit": _commit(),
        "command": " ".join(
            [
                "python -m",
                f"{Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem}",
                *sys.argv[1:],
            ]
        ),
    }


def record(question: str, line: dict[str, Any]) -> None:
    """Appends one JSON line to the results of a question, and shows its numbers on the terminal."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **line, **machine()}
    with open(RESULTS / f"{question}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
    shown = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
    )
    print(shown, flush=True)


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    return (
        commit + ("+" if commit and git("status", "--porcelain", "--", "../jaxcoinfer") else "")
        or "unknown"
    )
