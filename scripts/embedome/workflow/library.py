"""Which copy of this library jobs use."""

import os


def use_in_jobs(folder: str) -> None:
    """Have the processes that this one starts import the library from a folder, whatever version is installed."""
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{others}" if others else folder
