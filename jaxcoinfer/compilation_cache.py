"""A folder of compiled programs, so that a command need not compile what it compiled before.

JAX writes and reads it; here it is chosen, kept small and handed to JAX. Only the command does so:
a library must not write to the home of whoever imports it.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "JAXCOINFER_CACHE"  # "off", or another folder
MAX_BYTES = 1 << 30
MIN_COMPILE_S = 0.2  # what compiles faster is not worth a file


def chosen_folder(environment: Mapping[str, str], platform: str) -> Path | None:
    """Returns the folder that JAXCOINFER_CACHE names, else the one for caches of the platform
    (as `sys.platform` names it); None where the variable says "off".
    """
    named = environment.get(VARIABLE, "")
    if named:
        return None if named.lower() == "off" else Path(named).expanduser()
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    if platform == "darwin":
        return home / "Library" / "Caches" / "jaxcoinfer"
    if platform == "win32":
        local = environment.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "jaxcoinfer" / "Cache"
    caches = Path(environment.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else home / ".cache") / "jaxcoinfer" / "jax"


def prune(folder: Path, max_bytes: int) -> None:
    """Deletes the programs that were used the longest ago, until at most max_bytes are left.

    JAX would do so while it runs (`jax_compilation_cache_max_size`), but needs `filelock` for it.
    """
    entries = []
    for path in folder.glob("*-cache"):
        try:
            facts = path.stat()
        except OSError:  # another process deleted it
            continue
        entries.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    excess = sum(size for _, size, _ in entries) - max_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def start() -> str | None:
    """Lets JAX keep compiled programs, unless it is switched off or the user gave JAX a folder.

    Returns None, or in one line why the folder cannot be used.
    """
    folder = chosen_folder(os.environ, sys.platform)
    if folder is None:
        return None
    import jax

    config: Any = jax.config  # whose settings type checkers do not know
    if config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR sets it
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        prune(folder, MAX_BYTES)
    except OSError as error:
        return f"compiled programs are not kept: {folder}: {error.strerror}"
    config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    return None
