"""What recipes and benchmarks share: keys and worlds, how times are taken, where results go.

Times: compilation apart, the whole output waited for, the median of several calls. Results: one
JSON line each, with the machine and the commit.

    line = measure("name", function, *arguments)       # {"compile_s": ..., "median_s": ..., ...}
    record("stopping", line | {"decisions_per_s": 1})  # benchmarks/results/stopping.jsonl
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxcoinfer
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.executor import HELD_OUT, key_of
from jaxcoinfer.profiler import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the command line that shows a module's docstring as its help."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def make_world(scenario: Any, purpose: int, seed: int = 0) -> tuple[Any, Any]:
    """Returns (env, params) of a scenario, drawn for a purpose of `executor`: the evaluation half
    of what is recorded for HELD_OUT, the training half for all others.
    """
    split = "test" if purpose == HELD_OUT else "train"
    return jaxcoinfer.make(scenario, key_of(seed, purpose), split=split)


def rounded(intervals: Mapping[str, Interval], digits: int) -> dict[str, float]:
    """Returns mean and half width of every interval, `name` and `name_half`, ready for `record`."""
    line = {}
    for name, interval in intervals.items():
        line |= {name: round(interval.mean, digits), f"{name}_half": round(interval.half, digits)}
    return line


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


def record(question: str, line: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Appends one JSON line to the results of a question, and prints its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **line, **machine()}
    with open(folder / f"{question}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
    shown = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
    )
    print(shown, flush=True)


def machine() -> dict[str, Any]:
    """What ran: device, processor, cores, versions, commit of the code."""
    device = jax.devices()[0]
    program = Path(sys.argv[0])
    return {
        "device": f"{device.platform}:{device.device_kind}",
        "n_devices": jax.device_count(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": metadata.version("jax"),
        "commit": _commit(),
        "command": " ".join(["python -m", f"{program.parent.name}.{program.stem}", *sys.argv[1:]]),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = commit and git("status", "--porcelain", "--", "jaxcoinfer")
    return commit + ("+" if changed else "") or "unknown"
