"""A training that outlives its process: a checkpoint between stages, and on from there when it is
started again.

The same folder, key, params, hyper-parameters and lesson give the same numbers to the last bit,
however often the process was killed, on the same machine with the same versions: what a stage does
depends on the standing before it and on nothing else.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcoinfer.evaluation.types import RunError
from jaxcoinfer.evaluation.versions import versions
from jaxcoinfer.learn import checkpoints, loop
from jaxcoinfer.learn.loop import TrainingLoop, TrainState
from jaxcoinfer.learn.networks import TrainResult

ASKED = "asked.json"


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """What is learned, where and how: learner, a module with `training_loop`; env and config, as
    its `train` takes them; outcomes, for those that learn with the twin.
    """

    learner: Any
    env: Any
    config: Any
    outcomes: Any = None

    def __call__(self, params: Any, hyper: Any) -> TrainingLoop:
        """Returns the course, as `stages` asks for it."""
        given = {} if self.outcomes is None else {"outcomes": self.outcomes}
        return self.learner.training_loop(params, hyper, env=self.env, config=self.config, **given)


@dataclasses.dataclass(frozen=True)
class Events:
    """Who is told what: resumed(stage), where a run goes on; passed_over(line), of a damaged
    checkpoint; stage(standing), what was just reached.
    """

    resumed: Callable[[int], None] = lambda stage: None
    passed_over: Callable[[str], None] = lambda line: None
    stage: Callable[[TrainState], None] = lambda train_state: None


def train(
    folder: Path,
    key: jax.Array,
    params: Any,
    hyper: Any,
    *,
    spec: TrainSpec,
    said: Mapping[str, Any] | None = None,
    every: int = 1,
    events: Events | None = None,
) -> TrainResult:
    """Trains with a checkpoint in `folder` after every `every` stages and the last; goes on from
    the latest one there.

    said: names for what was asked, scenario and seed say, kept with all that decides what the
    training comes to. Raises RunError where the folder was begun with anything else,
    CheckpointError where a checkpoint cannot be written or all are damaged; each in one line.
    """
    events = events or Events()
    _agree(folder, {**(said or {}), **asked_of(key, params, hyper, spec)})
    template = jax.eval_shape(lambda: loop.init(key, params, hyper, build_loop=spec))
    found = checkpoints.latest(folder, template, events.passed_over)
    if found is None:
        train_state = loop.init(key, params, hyper, build_loop=spec)
        checkpoints.save(
            folder, 0, train_state
        )  # a folder that cannot be written is known before any work
    else:
        train_state = found[1]
        events.resumed(found[0])
    n_stages = template.curve.shape[0]
    for stage in range(int(train_state.stage) + 1, n_stages + 1):
        train_state = loop.advance(train_state, params, hyper, build_loop=spec)
        if stage % every == 0 or stage == n_stages:
            checkpoints.save(folder, stage, train_state)
        events.stage(train_state)
    training_loop = spec(params, hyper)
    return TrainResult(
        training_loop.weights(train_state.carry), train_state.curve, training_loop.steps
    )


def asked_of(key: jax.Array, params: Any, hyper: Any, spec: TrainSpec) -> dict[str, Any]:
    """Returns all that decides what a training comes to, ready for JSON; of key, params and the
    world a digest.
    """
    said = {name: _plain(getattr(spec, name)) for name in ("learner", "env", "config", "outcomes")}
    said |= {
        "hyper": _plain(jax.tree.map(float, hyper)),
        "key": _digest(key),
        "world": _digest(params),
    }
    return said | versions()


def _agree(folder: Path, asked: dict[str, Any]) -> None:
    """Writes what is asked for into a new folder; refuses one that was begun with anything else."""
    path = folder / ASKED
    try:
        begun = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        _begin(folder, json.dumps(asked, indent=1) + "\n")
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise RunError(f"{path}: damaged; restore it, or give another folder") from None
    before, now = _flat(begun), _flat(asked)
    other = [name for name in now | before if before.get(name) != now.get(name)]
    if other:
        one = other[0]
        more = f" (and {len(other) - 1} more)" if other[1:] else ""
        change = f"begun with {one} = {before.get(one)}, not {now.get(one)}{more}"
        raise RunError(f"{folder}: {change}; ask for the same, or give another folder")


def _begin(folder: Path, text: str) -> None:
    partial = folder / f".{ASKED}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        partial.replace(folder / ASKED)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None


def _plain(value: Any) -> Any:
    """What identifies a value, ready for JSON: fields of records, names of functions and modules."""
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return ".".join(
        filter(
            None, (getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
        )
    )


def _flat(table: Any, stem: str = "") -> dict[str, Any]:
    """Leaves of tables within tables, by path."""
    if not isinstance(table, dict):
        return {stem: table}
    parts = [_flat(value, f"{stem}.{name}".strip(".")) for name, value in table.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _digest(tree: Any) -> str:
    """Digest of the numbers of a tree, their shapes and types."""
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.tree.map(checkpoints.as_numbers, tree)):
        array = np.asarray(leaf)
        whole.update(f"{array.dtype} {array.shape} ".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
