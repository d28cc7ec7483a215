"""A training that outlives its process: it writes a checkpoint after each stage, and continues from
the latest one when it is started again.

The same folder, key, params, hyper-parameters and `TrainSpec` give the same numbers to the last
bit, however often the process was killed, on the same machine with the same versions: what a stage
does depends only on the `TrainState` before it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcoinfer.core.contract import Env
from jaxcoinfer.data.files import replace_file
from jaxcoinfer.evaluation.types import RunError
from jaxcoinfer.evaluation.versions import versions
from jaxcoinfer.learn import checkpoints, loop
from jaxcoinfer.learn.loop import TrainingLoop, TrainState
from jaxcoinfer.learn.networks import TrainResult

ASKED = "asked.json"


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """Which learner trains in which environment; a `LoopBuilder`."""

    learner: Any  # a module with `training_loop`
    env: Env
    config: Any  # as `train` of the learner takes it
    outcomes: Any = None  # likewise, of those that learn with the twin

    def __call__(self, params: Any, hyper: Any) -> TrainingLoop:
        """Returns the training loop."""
        twin = {} if self.outcomes is None else {"outcomes": self.outcomes}
        return self.learner.training_loop(params, hyper, env=self.env, config=self.config, **twin)


@dataclasses.dataclass(frozen=True)
class Events:
    """Functions that are called while a training runs."""

    resumed: Callable[[int], None] = lambda stage: None  # where it continues
    passed_over: Callable[[str], None] = lambda line: None  # of a damaged checkpoint
    stage: Callable[[TrainState], None] = lambda train_state: None  # after every stage


def train(
    folder: Path,
    key: jax.Array,
    params: Any,
    hyper: Any,
    *,
    spec: TrainSpec,
    labels: Mapping[str, Any] | None = None,
    every: int = 1,
    events: Events | None = None,
) -> TrainResult:
    """Trains with a checkpoint in `folder` after every `every` stages and the last; continues from
    the latest one there.

    labels: the scenario and seed, say, stored with all that decides the result of the training.
    Raises RunError where the folder was begun with anything else, CheckpointError where a
    checkpoint cannot be written or all are damaged; each in one line.
    """
    events = events or Events()
    _agree(folder, {**(labels or {}), **asked_of(key, params, hyper, spec)})
    template = jax.eval_shape(lambda: loop.init(key, params, hyper, build_loop=spec))
    latest = checkpoints.latest(folder, template, events.passed_over)
    if latest is None:
        train_state = loop.init(key, params, hyper, build_loop=spec)
        checkpoints.save(folder, 0, train_state)  # shows a read-only folder before any work
    else:
        number, train_state = latest
        events.resumed(number)
    n_stages = template.curve.shape[0]
    for stage in range(int(train_state.stage) + 1, n_stages + 1):
        train_state = loop.advance(train_state, params, hyper, build_loop=spec)
        if stage % every == 0 or stage == n_stages:
            checkpoints.save(folder, stage, train_state)
        events.stage(train_state)
    training_loop = spec(params, hyper)
    return TrainResult(
        training_loop.weights(train_state.learner_state), train_state.curve, training_loop.steps
    )


def asked_of(key: jax.Array, params: Any, hyper: Any, spec: TrainSpec) -> dict[str, Any]:
    """Returns all that decides what a training gives, ready for JSON; of arrays, digests."""
    asked = {name: _plain(getattr(spec, name)) for name in ("learner", "env", "config", "outcomes")}
    asked |= {
        "hyper": _plain(jax.tree.map(lambda leaf: np.asarray(leaf, float).tolist(), hyper)),
        "key": _digest(key),
        "world": _digest(params),
    }
    return asked | versions()


def _agree(folder: Path, asked: dict[str, Any]) -> None:
    """Writes what is asked for into a new folder; rejects one that was begun with anything else."""
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
    changed = [name for name in now | before if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        more = f" (and {len(changed) - 1} more)" if changed[1:] else ""
        change = f"begun with {name} = {before.get(name)}, not {now.get(name)}{more}"
        raise RunError(f"{folder}: {change}; ask for the same, or give another folder")


def _begin(folder: Path, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / ASKED, text.encode())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None


def _plain(value: Any) -> Any:
    """Identifies a value, ready for JSON: by the fields of a record, the name of a function."""
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {"is": type(value).__name__, **fields}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = getattr(value, "__qualname__", value.__name__)
    return ".".join(filter(None, (getattr(value, "__module__", ""), name)))


def _flat(table: Any, stem: str = "") -> dict[str, Any]:
    """Leaves of tables within tables, by path."""
    if not isinstance(table, dict):
        return {stem: table}
    branches = [_flat(value, f"{stem}.{name}".strip(".")) for name, value in table.items()]
    return {name: leaf for branch in branches for name, leaf in branch.items()}


def _digest(tree: Any) -> str:
    """Digest of the numbers of a tree, their shapes and types."""
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.tree.map(checkpoints.as_numbers, tree)):
        array = np.asarray(leaf)
        whole.update(f"{array.dtype} {array.shape} ".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
