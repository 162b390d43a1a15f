"""Whether the disk has room for what is about to be written."""

import logging
import shutil
from pathlib import Path

from embedome.common.errors import UserError

log = logging.getLogger(__name__)


# Headers of a file, the provenance among them.
FILE_BYTES = 20_000


def check_room(out: Path, size: int) -> None:
    """Say how large a file will be, and check that the disk has room for it.

    Raises
    ------
    UserError
        Where it has not.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    needed, free = size + FILE_BYTES, shutil.disk_usage(out.parent).free
    log.info("%s will take some %s MB of the %s MB that are free", out, f"{needed / 1e6:,.1f}", f"{free / 1e6:,.1f}")
    if needed > free:
        raise UserError(f"{out}: needs {needed / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are free there")
