"""Per-sample results of a DNN, read from the `.npz` beside its profile.

A table of mean accuracies loses that exits agree on easy samples; a per-sample table keeps it.
Letters: V model versions, E exits (the last one is the full network), P cuts, Q bit widths, S test
samples.
"""

import dataclasses
import functools
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxcoinfer.data.fields import Place, ProfileError, integer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Which exit is right on which sample, and how sure it is."""

    samples: int  # S
    correct: np.ndarray  # uint8 [V, E, P, Q, ceil(S / 8)], packed by `np.packbits` along S
    confidence: np.ndarray  # float [V, E, S] in [0, 1], the largest class probability
    entropy: np.ndarray  # float [V, E, S], nats, of the class probabilities

    def unpacked(self) -> np.ndarray:
        """`correct` as bool [V, E, P, Q, S]."""
        return np.unpackbits(self.correct, axis=-1, count=self.samples).astype(bool)

    def of_version(self, number: int) -> "Samples":
        """Those of one version alone, V = 1."""
        one = slice(number, number + 1)
        return dataclasses.replace(
            self,
            correct=self.correct[one],
            confidence=self.confidence[one],
            entropy=self.entropy[one],
        )


def load_samples(path: Path, shape: tuple[int, int, int, int]) -> Samples:
    """The arrays `samples`, `correct`, `confidence` and `entropy` of a `.npz`; shape: [V, E, P, Q].

    A run asks for the same file many times. It is read and checked again only after it has changed,
    by its time of change or size; until then all callers share its arrays, which are read-only.
    Raises ProfileError in one line when an array is missing, or of the wrong type, shape or range.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    identity = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)
    return _load(path, shape, identity)


@functools.lru_cache(maxsize=4)
def _load(path: Path, shape: tuple[int, int, int, int], identity: tuple[int, ...]) -> Samples:
    """Reads the file; identity tells one content of it from another."""
    table, place = _read(path), Place(str(path))
    if missing := {"samples", "correct", "confidence", "entropy"} - set(table):
        names = ", ".join(sorted(missing))
        raise ProfileError(f"{path}: missing array {names}; found: {', '.join(table) or 'none'}")
    samples = integer(1)(table["samples"].tolist(), place.at("samples"))
    correct, confidence, entropy = table["correct"], table["confidence"], table["entropy"]
    _require(correct, place.at("correct"), np.uint8, (*shape, -(-samples // 8)))
    for name, array, highest in (("confidence", confidence, 1.0), ("entropy", entropy, np.inf)):
        _require(array, place.at(name), np.floating, (*shape[:2], samples))
        inside = (array >= 0) & (array <= highest) & np.isfinite(array)  # NaN is not
        if not inside.all():
            allowed = "numbers in [0, 1]" if highest == 1 else "finite numbers >= 0"
            place.at(name).refuse(float(array[~inside][0]), allowed)
    for array in (correct, confidence, entropy):
        array.setflags(write=False)
    return Samples(samples=samples, correct=correct, confidence=confidence, entropy=entropy)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ProfileError:
    return ProfileError(f"{path}: not a readable .npz: {error}")


def _require(array: np.ndarray, place: Place, dtype: Any, shape: tuple[int, ...]) -> None:
    if not np.issubdtype(array.dtype, dtype) or array.shape != shape:
        place.refuse(f"{array.dtype} {array.shape}", f"{dtype.__name__} {shape}")
