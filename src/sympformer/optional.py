"""Packages that only some users need."""

import importlib
from types import ModuleType

from sympformer.errors import InputError, one_line


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import a module that an extra of this package brings.

    Args:
        module: its name, e.g. `pyarrow.parquet`.
        extra: the extra, as in `pip install 'sympformer[EXTRA]'`.
        what: what needs it, for the message.

    Raises:
        InputError: it is not there, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "" if missing else f", which cannot be imported ({one_line(error)})"
        raise InputError(
            f"{what} needs {package}{why}: pip install 'sympformer[{extra}]'"
        ) from None
