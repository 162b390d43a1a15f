"""Results of another source in the folder of a run, which it would write over."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.workflow.paths import Paths

log = logging.getLogger(__name__)

# What the demo's release is called.
DEMO = "embedome-demo"


def check_other_results(config: Mapping[str, Any], paths: Paths) -> None:
    """Check that no results of another source are written over; those of the demo may be, with a warning.

    A source is the same while its database is, or of files of the user's one is still among them.

    Raises
    ------
    UserError
        Says what is there, and how to keep both.
    """
    summary = Path(paths.place("results/summaries/filter.json"))
    if not summary.is_file():
        return
    account = read_json(summary)
    earlier, now = name_source(account), describe_source(config["source"], paths)
    if earlier == now or (earlier[0] == now[0] == "files" and set(earlier[1:]) & set(now[1:])):
        return
    there, here = (f"{kind} {', '.join(names[:3])}".strip() for kind, *names in (earlier, now))
    if earlier[0] == "the demo":
        log.warning("%s holds results of the demo, which this run of %s writes over", summary.parents[1], here)
        return
    raise UserError(
        f"{summary.parents[1]}: holds results of {there}; this run is of {here}, and would write over them. To keep "
        f"both, run in another folder (snakemake --directory OTHER); to write over them, remove {summary}"
    )


def name_source(account: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the source that a filter's summary is of: its kind, and the names of databases or files."""
    if not (release := account["release"]):
        return ("files", *(Path(each["file"]).name for each in account["inputs"]))
    if str(release["release"]).startswith(DEMO):
        return ("the demo",)
    return ("the database", release["database"])


def describe_source(source: Mapping[str, Any], paths: Paths) -> tuple[str, ...]:
    """Return the source of a configuration, as `name_source`."""
    if paths.is_kind("fasta"):
        return ("files", *(Path(path).name for path in paths.sequence_files))
    return ("the demo",) if paths.is_kind("demo") else ("the database", source["database"])
