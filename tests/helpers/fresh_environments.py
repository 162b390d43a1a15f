"""Python environments of a wheel and the packages that it asks for, linked from the environment of the tests."""

import importlib.metadata
import subprocess
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def asked_for(wheel: Path, extras: Collection[str] = ()) -> set[str]:
    """The packages that pip would install with a wheel and some of its extras, directly or through others."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    own = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    found, waiting = set(), [("embedome", extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package, extra) in found:
            continue
        found.add((package, extra))
        lines = own if package == "embedome" else importlib.metadata.requires(package) or []
        for needed in map(Requirement, lines):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                name = canonicalize_name(needed.name)
                waiting += [(name, each) for each in ("", *needed.extras)]
    return {package for package, _ in found} - {"embedome"}


def make_environment(folder: Path, wheel: Path, extras: Collection[str] = ()) -> Path:
    """A new environment with a wheel and nothing but what that asks for; gives its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in asked_for(wheel, extras):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            target = packages / top
            if not target.is_symlink() and not top.endswith(".pth"):
                target.symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    return folder / "bin"
