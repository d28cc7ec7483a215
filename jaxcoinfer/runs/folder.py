"""The folder of a run: written whole or not at all, read back, and its policy as one portable file."""

import csv
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization

import jaxcoinfer
from jaxcoinfer import scenarios
from jaxcoinfer.envs.stopping import OBSERVATION, Stopping
from jaxcoinfer.evaluate import Interval
from jaxcoinfer.profile_checks import Place, structure
from jaxcoinfer.runs import sweeps
from jaxcoinfer.runs.contenders import COMPARED, LEARNERS, METHOD
from jaxcoinfer.runs.pipeline import Checkpoint, Row, Run, RunError
from jaxcoinfer.scenarios import ProfileError, Scenario

CHECKPOINT = "checkpoint.msgpack"
_FORMAT = 1  # of a checkpoint
_PROCESS_OF = {
    record: name
    for group in (scenarios._TASKS, scenarios._ARRIVALS, scenarios._LOADS, scenarios._RATES, scenarios._SPEEDS)
    for name, record in group.items()
}


class MissingExtra(RuntimeError):
    """A package that one command needs is not installed; the message is one line that says how to get it."""


def check_target(out: Path) -> None:
    """Refuses, with a RunError of one line, a folder that `write` could not make; leaves nothing behind."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; a run wants a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: folder is not empty; a run wants one that is new or empty")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror} in {parent}") from None


def write(run: Run, out: Path, facts: Mapping[str, Any]) -> None:
    """Writes all files of a run; facts: what `config.json` says beside the scenario. Raises RunError, OSError."""
    checkpoint = run.checkpoint
    config = dict(facts) | {"hidden": checkpoint.hidden, "best_fixed_choice": checkpoint.fixed}
    config |= {"scenario": scenario_table(checkpoint.scenario)}
    with _whole_folder(out) as folder:
        _write_json(folder / "config.json", config)
        _write_json(folder / "summary.json", summary(run))
        (folder / "timeline.json").write_text(json.dumps(run.trace, allow_nan=False), encoding="utf-8")
        (folder / CHECKPOINT).write_bytes(pack(checkpoint))
        measures = [
            (name, measure, i.mean, i.half) for name, row in run.rows.items() for measure, i in _all(row).items()
        ]
        _write_csv(folder / "metrics.csv", ("policy", "measure", "mean", "half_width"), measures)
        points = [(name, *point) for name, curve in run.curves.items() for point in zip(*curve, strict=True)]
        _write_csv(folder / "learning.csv", ("learner", "tasks", "utility"), points)
        _write_figures(folder, run)


def summary(run: Run) -> dict[str, Any]:
    """Returns what a run found, ready for JSON: every measure of every policy, the sweeps, the end of learning."""
    swept = {
        axis: {
            "numbers": sweep.numbers,
            "trained": sweep.trained,
            "utility": {name: [_pair(i) for i in line] for name, line in sweep.utility.items()},
        }
        for axis, sweep in run.sweeps.items()
    }
    learned = {name: {"tasks": int(seen[-1]), "utility": float(u[-1])} for name, (seen, u) in run.curves.items()}
    return describe(run.rows, run.checkpoint) | {"sweeps": swept, "learning": learned}


def describe(rows: Mapping[str, Row], checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a table ready for JSON; means with the half widths of their 95 % intervals, SI units."""
    policies = {
        name: {"deployable": row.deployable, "measures": {m: _pair(i) for m, i in _all(row).items()}}
        for name, row in rows.items()
    }
    said = {"system": checkpoint.scenario.system, "scenario": checkpoint.scenario.name, "seed": checkpoint.seed}
    return said | {"compared_with": COMPARED, "policies": policies}


def scenario_table(record: Any) -> Any:
    """Returns a scenario as the table its TOML file would hold."""
    if dataclasses.is_dataclass(record):
        process = {"process": _PROCESS_OF[type(record)]} if type(record) in _PROCESS_OF else {}
        fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        return process | {
            name: dict(value) if name == "source" else scenario_table(value)
            for name, value in fields.items()
            if value != () and value is not None
        }
    return [scenario_table(item) for item in record] if isinstance(record, tuple) else record


def versions() -> dict[str, Any]:
    """Returns with what a run was made: versions of what decides numbers, and the kind of device."""
    installed = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    devices = [device.device_kind for device in jax.devices()]
    return {"versions": {"jaxcoinfer": jaxcoinfer.__version__, **installed}, "devices": devices}


def pack(checkpoint: Checkpoint) -> bytes:
    """Returns a checkpoint as bytes that know when they have been damaged."""
    state = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    state |= {"scenario": json.dumps(scenario_table(checkpoint.scenario)), "hidden": json.dumps(checkpoint.hidden)}
    content = serialization.msgpack_serialize({"format": _FORMAT, **state})
    digest = hashlib.sha256(content).hexdigest()
    return serialization.msgpack_serialize({"sha256": digest, "content": content})


def load(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a run. Raises RunError in one line where there is none, or where it is damaged."""
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; give one that `jaxcoinfer run` wrote")
    try:
        outer: Any = serialization.msgpack_restore(path.read_bytes())
        content = outer["content"]
        whole = hashlib.sha256(content).hexdigest() == outer["sha256"]
    except FileNotFoundError:
        raise RunError(f"{folder}: no {CHECKPOINT} in it; give a folder that `jaxcoinfer run` wrote") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # whatever msgpack makes of bytes that are not its own
        whole, content = False, b""
    if not whole:
        raise RunError(f"{path}: damaged: its checksum does not fit; run again, or restore the file")
    state: Any = serialization.msgpack_restore(content)
    if state.pop("format") != _FORMAT or not set(state["weights"]) <= set(LEARNERS):
        raise RunError(f"{path}: made by another version of jaxcoinfer; run again")
    try:
        scenario = structure(Scenario, json.loads(state["scenario"]), Place(str(path), "scenario"))
    except ProfileError as error:
        raise RunError(f"{error}; made by another version of jaxcoinfer?") from None
    hidden = {name: tuple(widths) for name, widths in json.loads(state["hidden"]).items()}
    return Checkpoint(**state | {"scenario": scenario, "hidden": hidden})


def export(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Writes the network of the method as a serialised `jax.export` function for CPU and CUDA.

    Returns what is written beside it, to `<out>.json`: what goes in and comes out. Raises MissingExtra, RunError.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise MissingExtra("export needs flatbuffers; install it with: python -m pip install 'jaxcoinfer[export]'")
    from jax import export as jax_export

    learner, env = LEARNERS[METHOD], Stopping(len(checkpoint.scenario.task.layer_s) - 1)
    net = learner.network(env, learner.Config(hidden=checkpoint.hidden[METHOD]))
    weights = jax.tree.map(jnp.asarray, checkpoint.weights[METHOD])
    (batch,) = jax_export.symbolic_shape("batch")
    observation = jax.ShapeDtypeStruct((batch, *env.observation_shape), jnp.float32)
    function = jax.jit(lambda observation: net.apply(weights, observation))
    content = jax_export.export(function, platforms=("cpu", "cuda"))(observation).serialize()
    card = {
        "file": out.name,
        "format": "jax.export: jax.export.deserialize(bytes).call(observation)",
        "platforms": ["cpu", "cuda"],
        "jax": jax.__version__,
        "scenario": checkpoint.scenario.name,
        "input": {"shape": ["batch", len(OBSERVATION)], "dtype": "float32", "features": list(OBSERVATION)},
        "output": {
            "shape": ["batch", env.n_layers + 1],
            "dtype": "float32",
            "meaning": "utility expected of continuing, by layers done; stop where stopping is worth at least as much",
        },
        "observation": "jaxcoinfer.envs.stopping.observe",
    }
    try:
        _replace(out, bytes(content))
        _replace(Path(f"{out}.json"), _json(card).encode())
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    return card


def _write_figures(folder: Path, run: Run) -> None:
    from jaxcoinfer import figures

    utility = {name: row.measures["utility"] for name, row in run.rows.items()}
    gains = {name: row.gain for name, row in run.rows.items()}
    labels = {sweeps.ARRIVALS: "arrival rate, tasks/s", sweeps.LOAD: "server load by other devices, share"}
    panels = {labels[axis]: (s.numbers, s.utility, s.trained) for axis, s in run.sweeps.items() if s.numbers}
    made = {
        "utility": figures.utility(utility, gains, COMPARED),
        "delay": figures.delays(run.latency_s, run.checkpoint.scenario.deadline_s),
        "decisions": figures.decisions(run.regions.stops, run.regions.backlog_s, run.regions.waiting_tasks),
        "learning": figures.learning(run.curves),
    }
    if panels:
        made["sweeps"] = figures.sweeps(panels)
    for name, figure in made.items():
        figure.savefig(folder / f"{name}.png", dpi=figures.DPI)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes it at the end, or vanishes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name}.{os.getpid()}.partial"
    temporary.mkdir()
    try:
        yield temporary
        if out.exists():
            out.rmdir()  # refuses if it has been filled meanwhile
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _all(row: Row) -> dict[str, Interval]:
    return row.measures | {"utility_gain": row.gain}


def _pair(interval: Interval) -> dict[str, float | None]:
    pair = {"mean": interval.mean, "half_width": interval.half}
    return {name: float(value) if math.isfinite(value) else None for name, value in pair.items()}


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(_json(content), encoding="utf-8")


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
