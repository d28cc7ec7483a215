"""Imports of the optional libraries that adapters are for."""

import importlib
from typing import Any


def needed(module: str, extra: str) -> Any:
    """Returns the module; raises ImportError that names the extra to install where the library is
    absent.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        what = (
            f"{error.name} is not installed, which this face needs: "
            f"python -m pip install 'jaxcoinfer[{extra}]'"
        )
        raise ImportError(what) from error
