"""Archives of old releases, as UniProt makes them."""

import gzip
import io
import tarfile

RELEASE = "2024_05"
ARCHIVE = f"uniref{RELEASE}.tar.gz"


def tar(*files: tuple[str, bytes], kind: str = "w", form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar file of names and contents; contents of None make a link to /etc/passwd."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=kind, format=form) as handle:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(data)
            handle.addfile(entry, io.BytesIO(data or b""))
    return out.getvalue()


def uniref(database: str, data: bytes, kind: str = "w") -> tuple[str, bytes]:
    """The tar file of one database, as UniProt makes it."""
    note = f"{database}.release_note"
    return f"{database}.tar", tar(("README", b"read me"), (note, b"a note"), (f"{database}.xml.gz", data), kind=kind)


def release_archive(*members: tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    return gzip.compress(tar(*members, form=form), 1, mtime=0)
