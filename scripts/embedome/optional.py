"""Libraries that only some commands need."""

from importlib import import_module
from types import ModuleType

from embedome.errors import UserError


def load_optional(name: str, package: str) -> ModuleType:
    """Import a module.

    Raises
    ------
    UserError
        Where it is not there; names the package to install.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"{package} is not installed and needed here: pip install {package}") from None
