"""Features, and random models, that no result of an evaluation depends on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedome.common.json_files import json_sha256, read_json
from embedome.common.unneeded import Unneeded
from embedome.evaluation.evaluate import FEATURES, RANDOM_MODELS
from embedome.evaluation.features import ABOUT, LOCK
from embedome.evaluation.runs import IDENTITY
from embedome.models.directory import model_identity


def unneeded_features(out: Path) -> Iterator[Unneeded]:
    """Yield features that no result names, and random models that made none of those which are named.

    Parameters
    ----------
    out : Path
        Folder of results.
    """
    if not (out / FEATURES).is_dir():
        return
    named, models = set(named_features(out)), set()
    for about in sorted((out / FEATURES).glob(f"*/{ABOUT}")):
        depends = read_json(about)
        if json_sha256(depends) in named:
            models.add(json_sha256(depends.get("model")))
        else:
            yield Unneeded(about.parent, "features that no result names", about.with_name(LOCK))
    for folder in sorted(path for path in (out / RANDOM_MODELS).glob("*") if path.is_dir() and path.suffix == ""):
        if json_sha256(model_identity(folder)) not in models:
            yield Unneeded(folder, "random weights that no result depends on", folder.with_suffix(".lock"))


def named_features(out: Path) -> Iterator[str]:
    """Yield the digests of the features that results of runs depend on."""
    for path in out.glob("*/*/*/*.json"):
        found: Any = read_json(path)
        if isinstance(found, dict) and isinstance(found.get(IDENTITY), dict):
            yield found[IDENTITY].get("features", "")
