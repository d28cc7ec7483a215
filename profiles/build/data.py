"""CIFAR-10 as the user has it: the official archive or its folder, or an `.npz` of arrays."""

import io
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


class Images(NamedTuple):
    """Pictures of ten classes."""

    train: np.ndarray  # uint8 [N, 32, 32, 3]
    train_labels: np.ndarray  # int32 [N]
    test: np.ndarray  # uint8 [N, 32, 32, 3]
    test_labels: np.ndarray  # int32 [N]
    note: str  # what they are, shown beside results


def load(path: Path) -> Images:
    """Reads CIFAR-10 from the official archive or the folder it unpacks to, or from an `.npz`.

    An `.npz` holds x_train, y_train, x_test, y_test; a second half of the training images may lie
    beside it as JPEG files in `<name>_train_part2_jpeg.npz` (jpeg_bytes, offsets, y_train). Raises
    FileNotFoundError, KeyError.
    """
    if path.suffix == ".npz":
        return _from_arrays(path)
    if path.is_dir():
        return _official(lambda name: (path / name).read_bytes())
    with tarfile.open(path) as archive:
        return _official(lambda name: _member(archive, name))


def download(folder: Path) -> Path:
    """Fetches the official archive (163 MB) into `folder` unless it is there; returns its path."""
    path = folder / "cifar-10-python.tar.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        urllib.request.urlretrieve(URL, unfinished)
        unfinished.replace(path)
    return path


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"cifar-10-batches-py/{name}")
    assert file is not None, f"{name} is a folder in the archive"
    return file.read()


def _official(read: Callable[[str], bytes]) -> Images:
    images = {}
    for part, names in BATCHES.items():
        batches = [pickle.loads(read(name), encoding="bytes") for name in names]
        pixels = np.concatenate([batch[b"data"] for batch in batches])
        images[part] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        images[f"{part}_labels"] = np.concatenate([batch[b"labels"] for batch in batches]).astype(
            np.int32
        )
    return Images(**images, note="official release of CIFAR-10")


def _from_arrays(path: Path) -> Images:
    with np.load(path) as file:
        train, labels = file["x_train"], file["y_train"]
        test, test_labels = file["x_test"], file["y_test"]
    rest = path.with_name(f"{path.stem}_train_part2_jpeg.npz")
    if rest.exists():
        more, more_labels = _decoded(rest)
        train, labels = np.concatenate([train, more]), np.concatenate([labels, more_labels])
    note = "CIFAR-10 of images that went through JPEG at quality 75"
    return Images(train, labels.astype(np.int32), test, test_labels.astype(np.int32), note)


def _decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    with np.load(path) as file:
        data, offsets, labels = file["jpeg_bytes"].tobytes(), file["offsets"], file["y_train"]
    files = (data[begin:end] for begin, end in pairwise(offsets))
    return np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files]), labels
