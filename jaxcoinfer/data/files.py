"""Files that are written whole or not at all."""

import os
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Returns where to write what is to be renamed to `path`: beside it, and of this process."""
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file, or leaves what was there before. Raises OSError."""
    partial = partial_path(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
