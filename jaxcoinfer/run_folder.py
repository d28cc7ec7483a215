"""The folder of a run: written in full or not at all, read back, its policy exported to a file."""

import csv
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxcoinfer.data.fields import Place, ProfileError, table_of
from jaxcoinfer.data.files import partial_path, replace_file
from jaxcoinfer.evaluation.comparison import flat, pair
from jaxcoinfer.evaluation.evaluate import Interval
from jaxcoinfer.evaluation.types import Checkpoint, Portable, Row, Run, RunError, Sheet, Table
from jaxcoinfer.systems import registry

CHECKPOINT = "checkpoint.msgpack"
_FORMAT = 3  # of a checkpoint: learners of `on-demand` correct its table since


class MissingExtra(RuntimeError):
    """A package that a command needs is not installed; the message is one line that says how to get
    it.
    """


def check_target(out: Path) -> None:
    """Raises RunError in one line where `write` cannot make the folder; leaves nothing behind."""
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
    """Writes all files of a run; facts: what `config.json` holds besides the scenario. Raises
    RunError, OSError.
    """
    checkpoint = run.checkpoint
    chosen = {name: _plain(value) for name, value in checkpoint.chosen.items()}
    config = dict(facts) | {"hidden": checkpoint.hidden, "chosen": chosen}
    config |= {"scenario": table_of(checkpoint.scenario)}
    with _whole_folder(out) as folder:
        _write_json(folder / "config.json", config)
        _write_json(folder / "summary.json", summary(run))
        (folder / "timeline.json").write_text(
            json.dumps(run.trace, allow_nan=False), encoding="utf-8"
        )
        (folder / CHECKPOINT).write_bytes(pack(checkpoint))
        measures = [
            (name, measure, *flat(interval))
            for name, row in run.table.rows.items()
            for measure, interval in _all(row).items()
        ]
        _write_csv(folder / "metrics.csv", (("policy", "measure", "mean", "half_width"), measures))
        for name, sheet in (run.table.sheets | run.sheets).items():
            _write_csv(folder / f"{name}.csv", sheet)
        for name, figure in run.figures().items():
            figure.savefig(folder / f"{name}.png")


def summary(run: Run) -> dict[str, Any]:
    """Returns the results of a run, ready for JSON: every measure of every policy, and what its
    system adds.
    """
    return describe(run.table, run.checkpoint) | run.found


def describe(table: Table, checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a table ready for JSON; means with half widths of their 95 % intervals, SI units."""
    bound = table.bound
    facts = {
        "system": checkpoint.scenario.system,
        "scenario": checkpoint.scenario.name,
        "seed": checkpoint.seed,
        "bound": {"what": bound.what, "utility": pair(bound.utility), "computed": bound.computed},
        "compared_with": table.compared,
        "policies": {
            name: {
                "deployable": row.deployable,
                "measures": {measure: pair(interval) for measure, interval in _all(row).items()},
            }
            for name, row in table.rows.items()
        },
    }
    return facts | table.found


def pack(checkpoint: Checkpoint) -> bytes:
    """Returns a checkpoint as bytes, with a checksum."""
    state = {
        field.name: serialization.to_state_dict(getattr(checkpoint, field.name))
        for field in dataclasses.fields(checkpoint)
        if field.name != "scenario"
    }
    state |= {
        "scenario": json.dumps(table_of(checkpoint.scenario)),
        "hidden": json.dumps(checkpoint.hidden),
    }
    content = serialization.msgpack_serialize({"format": _FORMAT, **state})
    digest = hashlib.sha256(content).hexdigest()
    return serialization.msgpack_serialize({"sha256": digest, "content": content})


def load(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a run. Raises RunError in one line where there is none, where it is
    damaged, or where another version wrote what this one cannot use.
    """
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; give one that `jaxcoinfer run` wrote")
    state: Any = serialization.msgpack_restore(_content(path))
    known = state.pop("format") == _FORMAT
    table = json.loads(state["scenario"]) if known else {}
    system = registry.SYSTEMS.get(table.get("system", ""))
    if system is None or not set(state["weights"]) <= set(system.part("run").LEARNERS):
        raise RunError(f"{path}: made by another version of jaxcoinfer; run again")
    try:
        scenario = registry.scenario_from(table, Place(str(path), "scenario"))
    except ProfileError as error:
        raise RunError(f"{error}; made by another version of jaxcoinfer? run again") from None
    hidden = {name: tuple(widths) for name, widths in json.loads(state["hidden"]).items()}
    return Checkpoint(**state | {"scenario": scenario, "hidden": hidden})


def _content(path: Path) -> bytes:
    """What `pack` made a checkpoint of, without its checksum, which must fit."""
    try:
        outer: Any = serialization.msgpack_restore(path.read_bytes())
        content = outer["content"]
        intact = hashlib.sha256(content).hexdigest() == outer["sha256"]
    except FileNotFoundError:
        raise RunError(
            f"{path.parent}: no {CHECKPOINT} in it; give a folder that `jaxcoinfer run` wrote"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # msgpack raises many types for bytes that are not its own
        intact, content = False, b""
    if not intact:
        raise RunError(
            f"{path}: damaged: its checksum does not fit; run again, or restore the file"
        )
    return content


def export(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Writes the network of the best learner as a serialised `jax.export` function for CPU and
    CUDA, and `<out>.json`, which describes it.

    Returns that description. Raises MissingExtra, RunError.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise MissingExtra(
            "export needs flatbuffers; install it with: python -m pip install 'jaxcoinfer[export]'"
        )
    from jax import export as jax_export

    portable = registry.SYSTEMS[checkpoint.scenario.system].part("run").portable(checkpoint)
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = _inputs(portable)
    arrays = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in inputs.values()]
    exported = jax_export.export(jax.jit(portable.function), platforms=("cpu", "cuda"))(*arrays)
    card = {
        "file": out.name,
        "policy": portable.policy,
        "format": "jax.export: jax.export.deserialize(bytes).call({})".format(", ".join(inputs)),
        "platforms": ["cpu", "cuda"],
        "jax": jax.__version__,
        "scenario": checkpoint.scenario.name,
        "input": _input_card(inputs) | {"features": list(portable.signature.features)},
        "output": {
            "shape": ["batch", *exported.out_avals[0].shape[1:]],
            "dtype": "float32",
            "meaning": portable.signature.meaning,
        },
        "made_by": portable.signature.made_by,
    }
    try:
        replace_file(out, bytes(exported.serialize()))
        replace_file(Path(f"{out}.json"), _json(card).encode())
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}") from None
    return card


_Inputs = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape without the batch, type)


def _inputs(portable: Portable) -> _Inputs:
    """The arrays that a function takes."""
    return portable.inputs or {"features": ((len(portable.signature.features),), "float32")}


def _input_card(inputs: _Inputs) -> dict[str, Any]:
    """Describes the arrays for JSON: a single one without its name."""
    arrays = [
        {"name": name, "shape": ["batch", *shape], "dtype": dtype}
        for name, (shape, dtype) in inputs.items()
    ]
    if len(arrays) > 1:
        return {"arrays": arrays}
    return {name: value for name, value in arrays[0].items() if name != "name"}


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is renamed to it at the end, or removed after an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(out)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rmdir()  # fails if files were written into it meanwhile
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _plain(value: Any) -> Any:
    """A value that was chosen, ready for JSON: of records their fields, of large arrays shapes."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        numbers = np.asarray(value, np.float64)
        return numbers.round(6).tolist() if numbers.size <= 16 else f"array {numbers.shape}"
    if isinstance(value, Mapping) or hasattr(value, "__dict__"):
        fields = value if isinstance(value, Mapping) else vars(value)
        return {name: _plain(inner) for name, inner in fields.items()}
    return value


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
        writer.writerows([_cell(number) for number in row] for row in rows)


def _cell(value: Any) -> Any:
    """What is not known, NaN, is an empty cell."""
    return "" if isinstance(value, Real) and math.isnan(value) else value
