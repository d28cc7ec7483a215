"""States of a long run on disk: each whole or not there at all, each known to be undamaged before
it is used.

A folder holds the last `KEPT` of them, `step-00000012` say: what Orbax wrote, and `sha256.json`
with the digest of every file. Orbax renames its folder into place once all is written, and passes
over one that was not; but of a finished one with a flipped bit, a short file or one that is gone it
does not say what is wrong. So it writes into a folder of ours, whose digests are checked before
anything is read; that folder is renamed into place after all of it has reached the disk, and only
then is the oldest removed.
"""

import hashlib
import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

KEPT = 3
_STATE, _DIGESTS = "state", "sha256.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or of which none can be read; the message is one line."""


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes the state `tree`, arrays and keys, as that of `step`, and removes what is older than
    the last `KEPT`.

    Raises CheckpointError where it cannot be written: read-only, disk full; what was there before
    is then untouched.
    """
    target = folder.absolute() / f"step-{step:08d}"
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        partial.mkdir()
        _write(partial / _STATE, jax.device_get(jax.tree.map(as_numbers, tree)))
        _write_digests(partial)
        if target.exists():  # passed over, or the run would have gone on from it
            shutil.rmtree(target)
        partial.rename(target)
        _flush(target.parent)
    except Exception as error:  # what Orbax and TensorStore make of a full disk is of no one type
        shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(path.name for _, path in _finished(folder)[-1:]) or "none"
        raise CheckpointError(
            f"{target}: cannot be written: {_reason(error)}; last one kept: {kept}"
        ) from None
    for _, old in _finished(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path, template: Any, say: Callable[[str], None]) -> tuple[int, Any] | None:
    """Returns (step, state) of the latest undamaged checkpoint, or None where there is none at all.

    template: what was saved, or its shapes, as `jax.eval_shape` gives them. Those that are damaged
    are passed over: each is told to `say` in a line, and set aside under another name. Raises
    CheckpointError where all of them are.
    """
    finished, faulty = _finished(folder), []
    for step, path in reversed(finished):
        fault = damage(path)
        if fault is None:
            for other in faulty:
                _set_aside(other)
            return step, _read(path / _STATE, template)
        say(f"{path}: damaged: {fault}; using the one before")
        faulty.append(path)
    if finished:
        names = ", ".join(path.name for _, path in finished)
        raise CheckpointError(
            f"{folder}: all checkpoints are damaged ({names}); restore one, or begin in a new folder"
        )
    return None


def damage(path: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None."""
    try:
        digests = json.loads((path / _DIGESTS).read_bytes())
        found = _digests(path)
    except (OSError, ValueError) as error:
        return f"{_DIGESTS} or a file cannot be read ({_reason(error)})"
    if not isinstance(digests, dict):
        return f"{_DIGESTS} is not a table"
    wrong = [f"{name} is missing" for name in sorted(set(digests) - set(found))]
    wrong += [f"{name} is not part of it" for name in sorted(set(found) - set(digests))]
    wrong += [
        f"{name} is not as written"
        for name in sorted(found)
        if digests.get(name, found[name]) != found[name]
    ]
    return ", ".join(wrong) or None


def _finished(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in a folder, by step."""
    try:
        named = [(_NAME.fullmatch(path.name), path) for path in folder.absolute().iterdir()]
    except OSError:
        return []
    return sorted((int(match[1]), path) for match, path in named if match)


def _set_aside(path: Path) -> None:
    """Renames a damaged one, so that it does not count as one of those kept."""
    aside = path.with_name(path.name.replace("step", "damaged"))
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):  # read-only: the run will say so as soon as it writes
        path.rename(aside)


def _remove_partial(folder: Path) -> None:
    """Removes what runs that were killed while they wrote have left."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, tree: Any) -> None:
    orbax = importlib.import_module("orbax.checkpoint")  # half a second, and only long runs want it
    with _quiet(), orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=orbax.args.StandardSave(tree))


def _read(path: Path, template: Any) -> Any:
    orbax = importlib.import_module("orbax.checkpoint")
    shapes = jax.eval_shape(lambda tree: jax.tree.map(as_numbers, tree), template)
    # Into NumPy arrays: where they then go is not for the device to say on which they once were.
    places = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        read = checkpointer.restore(path, args=orbax.args.StandardRestore(places))
    return jax.tree.map(_as_before, template, read)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what Orbax's threads log when they fail: pages, of what is also raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def as_numbers(leaf: Any) -> Any:
    """Returns an array as it is, and of typed keys the numbers they are made of."""
    return (
        jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )


def _as_before(like: Any, numbers: np.ndarray) -> jax.Array:
    array = jax.numpy.asarray(numbers)
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            array, impl=jax.random.key_impl(jax.numpy.zeros((), like.dtype))
        )
    return array


def _digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _DIGESTS)
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def _write_digests(path: Path) -> None:
    """Writes the digests, and waits until they and all they are of have reached the disk."""
    (path / _DIGESTS).write_text(json.dumps(_digests(path), indent=1) + "\n", encoding="utf-8")
    for file in [*path.rglob("*"), path]:
        _flush(file)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """What an error says, in one short line; of TensorStore's, what the system said."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    system = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(system[1])) if system else text[:200]
