"""What a GPU makes of this library, in one command that may be cut off at any moment.

    python -m benchmarks.gpu [QUESTION ...] [--minutes 8] [--out DIR]
        [--sizes 16384 131072 1048576 2097152]

Appends a JSON line to `gpu.jsonl` in DIR (default: `benchmarks/results`) as soon as each question
is answered, the longest last, and begins none once the minutes are over:

limits      peak rates of memory, cache and arithmetic
speed       every environment, twin and bound at each size, as `benchmarks.speed` measures them
kernels     of a step of every environment: how many, and which take how long
tests       those that compare with a reference in NumPy, run on this backend, with its tolerances
training    the best learner of every system: seconds and score after each stage

A question that fails leaves a line that says why. Needs no network and nothing but the core
dependencies and pytest; the same on CPU.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax

from benchmarks import cases, limits, speed
from jaxcoinfer.evaluation.executor import LEARN, TRAIN_DRAW, key_of
from jaxcoinfer.learn import loop
from jaxcoinfer.systems import registry
from training.common import RESULTS, ROOT, make_world, parser, record
from training.long import best_learner

QUESTIONS = ("limits", "speed", "kernels", "tests", "training")

Lines = Iterator[dict[str, Any]]

_REFERENCES = (  # tests that compare with a NumPy reference or with numbers worked out by hand
    "tests/systems/stopping/test_reference.py",
    "tests/systems/stopping/test_env.py",
    "tests/systems/stopping/twin",
    "tests/systems/stopping/bounds",
    "tests/systems/on_demand/test_env.py",
    "tests/systems/fleet/test_env.py",
    "tests/systems/fleet/test_bound.py",
    "tests/systems/multi_user/test_env.py",
)
_WORKERS = 6  # of the tests, each with a context of its own on the GPU
_SHOWN_KERNELS = 5


def speeds(sizes: list[int]) -> Iterator[tuple[str, Callable[[], Lines]]]:
    """Yields (question, what answers it) for every kind and size, against the limits of this run.

    The limits are measured when the first of them is asked.
    """
    measured = cache(limits.limits)

    def answer(kind: str, size: int) -> Callable[[], Lines]:
        return lambda: speed.lines(kind, size, measured(), repeats=5)

    yield "limits", lambda: iter((measured(),))
    for size in sizes:
        yield "speed", answer("environments", size)
    for size in sizes[:-1]:  # a twin holds every outcome of every device
        yield "speed", answer("twins", size)
    yield "speed", answer("bounds", 1)
    yield "speed", answer("bounds", min(sizes))


def kernels(size: int) -> Lines:
    """Yields, per environment, the kernels of a step and the time that each takes, by a profile."""
    for case in cases.environments(size):
        compiled = jax.jit(case.loop).lower(*case.arguments).compile()
        jax.block_until_ready(compiled(*case.arguments))
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                jax.block_until_ready(compiled(*case.arguments))
            spent_ns = _spent_ns(Path(folder))
        longest = sorted(spent_ns.items(), key=lambda item: -sum(item[1]))[:_SHOWN_KERNELS]
        yield {
            "name": case.name,
            "size": size,
            "kernels_per_step": sum(map(len, spent_ns.values())) / case.turns,
            "ns_per_step": sum(map(sum, spent_ns.values())) / case.turns,
            "longest_ns_per_step": {name: sum(each) / case.turns for name, each in longest},
        }


def _spent_ns(folder: Path) -> dict[str, list[float]]:
    """Durations of what ran on the devices, by name; empty where the backend records none (CPU)."""
    spent_ns: dict[str, list[float]] = {}
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for stream in (line for line in plane.lines if line.name.startswith("Stream")):
                for event in stream.events:
                    spent_ns.setdefault(event.name, []).append(event.duration_ns)
    return spent_ns


def tests(seconds: float) -> Lines:
    """Yields the result of the tests that compare with references, run on this backend."""
    environment = os.environ | {
        "JAX_PLATFORMS": {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the device
        "CI": "1",
    }
    # Where pytest-benchmark is installed, it warns of several workers, and warnings are errors.
    command = [sys.executable, "-m", "pytest", "-n", str(_WORKERS), "-p", "no:benchmark"]
    command += ["--tb=line", *_REFERENCES]
    begin_s = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
        )
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        code, output = "timeout", (error.stdout or b"").decode(errors="replace")
    kept = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    yield {
        "code": code,
        "seconds": round(time.perf_counter() - begin_s, 1),
        "summary": (output.strip().splitlines() or [""])[-1],
        "failed": kept[:40],
    }


def training(system: str, seconds: float) -> Lines:
    """Yields seconds, steps and score of a system's best learner after each stage, compilation
    apart; ends early after `seconds`.
    """
    begin_s = time.perf_counter()
    scenario = registry.SYSTEMS[system].default_scenario
    env, params = make_world(scenario, TRAIN_DRAW)
    spec, hyper = best_learner(system, env, {})
    state = loop.init(key_of(0, LEARN), params, hyper, build_loop=spec)
    step = loop.advance.lower(state, params, hyper, build_loop=spec).compile()
    compile_s = time.perf_counter() - begin_s
    n_steps, n_stages = spec(params, hyper).steps, state.curve.shape[0]
    begin_s, after_s = time.perf_counter(), []
    for _ in range(n_stages):
        state = jax.block_until_ready(step(state, params, hyper))
        after_s.append(round(time.perf_counter() - begin_s, 3))
        if after_s[-1] + compile_s > seconds:
            break
    done = len(after_s)
    yield {
        "system": system,
        "scenario": scenario,
        "compile_s": round(compile_s, 1),
        "stages": n_stages,
        "steps": n_steps[:done].tolist(),
        "seconds": after_s,
        "score": [round(float(score), 5) for score in state.curve[:done]],
        "steps_per_s": float(n_steps[done - 1]) / after_s[-1],
    }


def main() -> None:
    """Asks all questions, shortest first, until the time is over."""
    command = parser(__doc__)
    command.add_argument("questions", nargs="*", metavar="QUESTION", default=QUESTIONS)
    command.add_argument("--minutes", type=float, default=8.0)
    command.add_argument("--out", type=Path, default=RESULTS)
    command.add_argument(
        "--sizes", type=int, nargs="+", default=[1 << 14, 1 << 17, 1 << 20, 1 << 21]
    )
    options = command.parse_args()
    if unknown := set(options.questions) - set(QUESTIONS):
        command.error(f"{', '.join(sorted(unknown))}: no such question; {', '.join(QUESTIONS)}")
    end_s = time.perf_counter() + 60.0 * options.minutes

    def left_s() -> float:
        return end_s - time.perf_counter()

    questions = list(speeds(sorted(options.sizes)))
    questions.append(("kernels", lambda: kernels(max(options.sizes))))
    questions.append(("tests", lambda: tests(max(30.0, 0.4 * left_s()))))
    for system in registry.SYSTEMS:
        questions.append(("training", lambda system=system: training(system, left_s())))
    for question, answer in questions:
        if question not in options.questions:
            continue
        if left_s() < 0:
            record("gpu", {"question": question, "error": "no time left"}, options.out)
            continue
        begin_s = time.perf_counter()
        try:
            for line in answer():
                record("gpu", {"question": question} | line, options.out)
        except Exception as error:  # the other questions can still be answered
            kind, text = type(error).__name__, str(error)[:2000]
            record("gpu", {"question": question, "error": f"{kind}: {text}"}, options.out)
        print(f"# {question}: {time.perf_counter() - begin_s:.1f} s", flush=True)


if __name__ == "__main__":
    main()
