"""States of a long run on disk: each is there in full or not at all, and is checked for damage
before it is used.

A folder holds the last `KEPT` of them, `step-00000012` for example: what Orbax wrote, and
`sha256.json` with the digest of every file. Orbax itself renames its folder into place once all is
written, and ignores one that is incomplete; but it does not say what is wrong with a finished one
that has a flipped bit, a short file or a missing one. So Orbax writes into a folder of ours, whose
digests are checked before anything is read; that folder is renamed into place after all of it has
reached the disk, and only then is the oldest removed.
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

from jaxcoinfer.data.files import partial_path

KEPT = 3
_STATE, _DIGESTS = "state", "sha256.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read; the message is one line."""


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes the state `tree`, arrays and keys, as that of `step`, and removes what is older than
    the last `KEPT`.

    Raises CheckpointError where it cannot be written: read-only, disk full; what was there before
    is then untouched.
    """
    target = folder.absolute() / f"step-{step:08d}"
    partial = partial_path(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        partial.mkdir()
        _write(partial / _STATE, jax.device_get(jax.tree.map(as_numbers, tree)))
        _write_digests(partial)
        if target.exists():  # damaged, or the run would have continued from it
            shutil.rmtree(target)
        partial.rename(target)
        _flush(target.parent)
    except Exception as error:  # Orbax and TensorStore raise many types for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(path.name for _, path in _finished(folder)[-1:]) or "none"
        raise CheckpointError(
            f"{target}: cannot be written: {_reason(error)}; last one kept: {kept}"
        ) from None
    for _, old in _finished(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path, template: Any, say: Callable[[str], None]) -> tuple[int, Any] | None:
    """Returns (step, state) of the latest undamaged checkpoint, or None where there is none at all.

    template: what was saved, or its shapes, as `jax.eval_shape` gives them. Damaged ones are
    skipped: `say` gets a line about each, and each gets another name. Raises CheckpointError where
    all are damaged.
    """
    finished, damaged = _finished(folder), []
    for step, path in reversed(finished):
        fault = damage(path)
        if fault is None:
            for other in damaged:
                _set_aside(other)
            return step, _read(path / _STATE, template)
        say(f"{path}: damaged: {fault}; using the one before")
        damaged.append(path)
    if finished:
        names = ", ".join(path.name for _, path in finished)
        raise CheckpointError(
            f"{folder}: all checkpoints are damaged ({names}); "
            "restore one, or begin in a new folder"
        )
    return None


def damage(path: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None."""
    try:
        digests = json.loads((path / _DIGESTS).read_bytes())
        actual = _digests(path)
    except (OSError, ValueError) as error:
        return f"{_DIGESTS} or a file cannot be read ({_reason(error)})"
    if not isinstance(digests, dict):
        return f"{_DIGESTS} is not a table"
    wrong = [f"{name} is missing" for name in sorted(set(digests) - set(actual))]
    wrong += [f"{name} is not part of it" for name in sorted(set(actual) - set(digests))]
    wrong += [
        f"{name} is not as written"
        for name in sorted(actual)
        if digests.get(name, actual[name]) != actual[name]
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
    with suppress(OSError):  # where it is read-only, the next write says so
        path.rename(aside)


def _remove_partial(folder: Path) -> None:
    """Removes what was left by runs that were killed while they wrote."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, tree: Any) -> None:
    orbax = importlib.import_module("orbax.checkpoint")  # half a second, which only long runs need
    with _quiet(), orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=orbax.args.StandardSave(tree))


def _read(path: Path, template: Any) -> Any:
    orbax = importlib.import_module("orbax.checkpoint")
    shapes = jax.eval_shape(lambda tree: jax.tree.map(as_numbers, tree), template)
    # Into NumPy arrays: those of JAX would go back to the device on which they once were.
    places = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with orbax.Checkpointer(orbax.StandardCheckpointHandler()) as checkpointer:
        numbers = checkpointer.restore(path, args=orbax.args.StandardRestore(places))
    return jax.tree.map(_as_before, template, numbers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses what Orbax's threads log when they fail: pages about what is also raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def as_numbers(leaf: Any) -> Any:
    """Returns an array as it is, and typed keys as the numbers they are made of."""
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
    """Writes the digests, and waits until all files of the folder have reached the disk."""
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
    """The message of an error in one short line; of TensorStore's, that of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    system = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(system[1])) if system else text[:200]
