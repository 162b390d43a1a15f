"""The download of a sequence database release, from mirrors that follow UniProt's FTP layout.

A mirror is the URL of a folder that holds ``RELEASE.metalink`` and the database's file. The metalink says which size
and md5 the file must have; nothing is published that does not have them. What has arrived of an unfinished download
lies in ``.<name>.part`` beside the target, and ``.<name>.part.json`` says which file of which server it is a part of,
so that the next try, or the next run, goes on from there. Old releases are in archives, see `archive`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedome.sources.archive import archive_folders, fetch_archived
from embedome.sources.http import MirrorError, with_retries
from embedome.sources.mirrors import (
    METALINK,
    check_mirror,
    file_blocks,
    from_mirrors,
    is_file,
    join_url,
    parse_metalink,
    read_metalink,
    recorded_url,
)
from embedome.sources.partial_download import PartialDownload, fetch_rest, partial_download


def download_release(
    mirrors: Sequence[str],
    database: str,
    target: Path,
    record: Path,
    *,
    file_format: str = "fasta",
    release: str | None = None,
    max_gb: float | None = None,
) -> None:
    """Download one database of a release from the first mirror that serves it whole and right.

    The file is checked against the size and md5 of the mirror's RELEASE.metalink before it is published as
    `target`. A broken connection is resumed, in this run or the next; that of an archive in this run alone.

    Parameters
    ----------
    mirrors : sequence of str
        ``file://`` or ``http(s)://`` URLs of folders in UniProt's FTP layout, tried in turn.
    database : str
        The name of the file without ``.fasta.gz``, e.g. ``uniref50``.
    target : Path
        Where the file goes, compressed as it comes.
    record : Path
        Where release.json goes: url, database, release, date (the metalink's ``pubdate``, else the server's
        Last-Modified, else null), bytes, md5, sha256; of an old release also member and archive, see
        `archive.fetch_archived`. For a ``file://`` mirror the url is the file's name alone, so that the record does not
        depend on the folder.
    file_format : str
        ``fasta`` or ``xml``.
    release : str, optional
        An old release to take out of the mirrors' archive, e.g. ``2024_05``.
    max_gb : float, optional
        Gigabytes of the largest file that is taken.

    Raises
    ------
    UserError
        Where a mirror is no such URL or holds a password, where another process downloads to `target`, where an archive
        lacks the file, and where no mirror gave a verified copy; the message lists each mirror with what went wrong.

    References
    ----------
    Metalink 3.0, as UniProt writes it: https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/RELEASE.metalink.
    """
    for mirror in mirrors:
        check_mirror(mirror)
    name = f"{database}.{file_format}.gz"
    with partial_download(Path(target), max_gb) as part:
        if release:
            folders = archive_folders(mirrors, database, release)
            facts = from_mirrors(folders, name, lambda folder: fetch_archived(folder, release, database, name, part))
        else:
            facts = from_mirrors(mirrors, name, lambda mirror: fetch_verified(mirror, database, name, part))
        part.publish_with_record(Path(record), facts)


def fetch_verified(mirror: str, database: str, name: str, part: PartialDownload) -> dict[str, Any]:
    """Fill `part` from one mirror and check it; return what release.json says."""
    expected = parse_metalink(read_metalink(join_url(mirror, METALINK)), name)
    url = join_url(mirror, name)
    for _ in range(2):
        if is_file(mirror):
            part.restart({})
            part.append(file_blocks(url), name, expected.bytes)
        else:
            part.drop_unless({"bytes": expected.bytes, "md5": expected.md5})
            with_retries(lambda: fetch_rest(part, url, name, expected.check_answer), name, lambda: part.size)
        size = part.size
        md5, sha256 = part.digests(name)
        if (size, md5) == (expected.bytes, expected.md5):
            date = expected.date or part.note.get("Last-Modified")
            facts = {"url": recorded_url(url), "database": database, "release": expected.release, "date": date}
            return facts | {"bytes": size, "md5": md5, "sha256": sha256}
        # A file put together from several answers may be wrong where the mirror is right: once more, from zero.
        joined = part.joined
        part.restart({})
        if not joined:
            break
    raise MirrorError(expected.differs_from(size, md5))
