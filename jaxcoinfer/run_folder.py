"""The folder of a run: written whole or not at all, read back, and its policy as one portable file."""

import csv
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from flax import serialization

from jaxcoinfer.data.fields import Place, ProfileError, table_of
from jaxcoinfer.evaluation.comparison import pair
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Checkpoint, Row, Run, RunError, Sheet, Table
from jaxcoinfer.systems import registry

CHECKPOINT = "checkpoint.msgpack"
_FORMAT = 1  # of a checkpoint


class MissingExtra(RuntimeError):
    """A package that one command needs is not installed; the message is one line that says how to
    get it.
    """


def check_target(out: Path) -> None:
    """Refuses, with a RunError of one line, a folder that `write` could not make; leaves nothing
    behind.
    """
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
    """Writes all files of a run; facts: what `config.json` says beside the scenario. Raises
    RunError, OSError.
    """
    checkpoint = run.checkpoint
    config = dict(facts) | {"hidden": checkpoint.hidden, "best_fixed_choice": checkpoint.fixed}
    config |= {"exit_threshold": checkpoint.threshold} if checkpoint.threshold is not None else {}
    config |= {"scenario": table_of(checkpoint.scenario)}
    with _whole_folder(out) as folder:
        _write_json(folder / "config.json", config)
        _write_json(folder / "summary.json", summary(run))
        (folder / "timeline.json").write_text(
            json.dumps(run.trace, allow_nan=False), encoding="utf-8"
        )
        (folder / CHECKPOINT).write_bytes(pack(checkpoint))
        measures = [
            (name, measure, i.mean, i.half)
            for name, row in run.table.rows.items()
            for measure, i in _all(row).items()
        ]
        _write_csv(folder / "metrics.csv", (("policy", "measure", "mean", "half_width"), measures))
        for name, sheet in (run.table.sheets | run.sheets).items():
            _write_csv(folder / f"{name}.csv", sheet)
        for name, figure in run.figures().items():
            figure.savefig(folder / f"{name}.png")


def summary(run: Run) -> dict[str, Any]:
    """Returns what a run found, ready for JSON: every measure of every policy, and what its system
    adds.
    """
    return describe(run.table, run.checkpoint) | run.found


def describe(table: Table, checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a table ready for JSON; means with the half widths of their 95 % intervals, SI units."""
    policies = {
        name: {"deployable": row.deployable, "measures": {m: pair(i) for m, i in _all(row).items()}}
        for name, row in table.rows.items()
    }
    bound = table.bound
    said = {
        "system": checkpoint.scenario.system,
        "scenario": checkpoint.scenario.name,
        "seed": checkpoint.seed,
    }
    said |= {
        "bound": {"what": bound.what, "utility": pair(bound.utility), "computed": bound.computed}
    }
    return said | {"compared_with": table.compared, "policies": policies} | table.found


def pack(checkpoint: Checkpoint) -> bytes:
    """Returns a checkpoint as bytes that know when they have been damaged."""
    state = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)
    }
    state |= {
        "scenario": json.dumps(table_of(checkpoint.scenario)),
        "hidden": json.dumps(checkpoint.hidden),
    }
    content = serialization.msgpack_serialize({"format": _FORMAT, **state})
    digest = hashlib.sha256(content).hexdigest()
    return serialization.msgpack_serialize({"sha256": digest, "content": content})


def load(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a run. Raises RunError in one line where there is none, or where it
    is damaged.
    """
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; give one that `jaxcoinfer run` wrote")
    try:
        outer: Any = serialization.msgpack_restore(path.read_bytes())
        content = outer["content"]
        whole = hashlib.sha256(content).hexdigest() == outer["sha256"]
    except FileNotFoundError:
        raise RunError(
            f"{folder}: no {CHECKPOINT} in it; give a folder that `jaxcoinfer run` wrote"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # whatever msgpack makes of bytes that are not its own
        whole, content = False, b""
    if not whole:
        raise RunError(
            f"{path}: damaged: its checksum does not fit; run again, or restore the file"
        )
    state: Any = serialization.msgpack_restore(content)
    known = state.pop("format") == _FORMAT
    given = json.loads(state["scenario"]) if known else {}
    system = registry.SYSTEMS.get(given.get("system", ""))
    if system is None or not set(state["weights"]) <= set(system.part("run").LEARNERS):
        raise RunError(f"{path}: made by another version of jaxcoinfer; run again")
    try:
        scenario = registry.scenario_from(given, Place(str(path), "scenario"))
    except ProfileError as error:
        raise RunError(f"{error}; made by another version of jaxcoinfer?") from None
    hidden = {name: tuple(widths) for name, widths in json.loads(state["hidden"]).items()}
    return Checkpoint(**state | {"scenario": scenario, "hidden": hidden})


def export(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Writes the network of the best learner as a serialised `jax.export` function for CPU and
    CUDA.

    Returns what is written beside it, to `<out>.json`: what goes in and comes out. Raises
    MissingExtra, RunError.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise MissingExtra(
            "export needs flatbuffers; install it with: python -m pip install 'jaxcoinfer[export]'"
        )
    from jax import export as jax_export

    portable = registry.SYSTEMS[checkpoint.scenario.system].part("run").portable(checkpoint)
    signature = portable.signature
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = portable.inputs or {"features": ((len(signature.features),), "float32")}
    arrays = [jax.ShapeDtypeStruct((batch, *shape), kind) for shape, kind in inputs.values()]
    exported = jax_export.export(jax.jit(portable.function), platforms=("cpu", "cuda"))(*arrays)
    taken = [
        {"name": name, "shape": ["batch", *shape], "dtype": kind}
        for name, (shape, kind) in inputs.items()
    ]
    alone = {name: value for name, value in taken[0].items() if name != "name"}
    card = {
        "file": out.name,
        "policy": portable.policy,
        "format": "jax.export: jax.export.deserialize(bytes).call({})".format(", ".join(inputs)),
        "platforms": ["cpu", "cuda"],
        "jax": jax.__version__,
        "scenario": checkpoint.scenario.name,
        "input": (alone if len(taken) == 1 else {"arrays": taken})
        | {"features": list(signature.features)},
        "output": {
            "shape": ["batch", *exported.out_avals[0].shape[1:]],
            "dtype": "float32",
            "meaning": signature.meaning,
        },
        "made_by": signature.made_by,
    }
    try:
        _replace(out, bytes(exported.serialize()))
        _replace(Path(f"{out}.json"), _json(card).encode())
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    return card


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
    return row.measures | {"utility_gain": row.gain, "gap_to_bound": row.gap}


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(_json(content), encoding="utf-8")


def _write_csv(path: Path, sheet: Sheet) -> None:
    header, rows = sheet
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
