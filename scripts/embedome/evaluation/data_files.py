"""The files of a task as they are published: in folders, in zip archives, compressed, or given one by one."""

import csv
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedome.common.errors import UserError, cut
from embedome.common.inputs import check_input, check_line
from embedome.common.json_files import file_sha256
from embedome.evaluation.tasks import SPLITS
from embedome.sequences.compressed import BLOCK_BYTES, read_blocks
from embedome.sequences.fasta import cut_chunks

COMPRESSED = (".gz", ".zst")
# Characters of a field: labels of each residue are long.
csv.field_size_limit(1 << 30)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file, or a member of a zip archive.

    Parameters
    ----------
    path : Path
    member : str or None
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @property
    def name(self) -> str:
        """Its name without folders and without what says that it is compressed."""
        name = Path(self.member or self.path).name
        return next((name.removesuffix(each) for each in COMPRESSED if name.endswith(each)), name)

    def is_called(self, name: str) -> bool:
        """Return whether it has a name, or ends in it after a point."""
        return self.name == name or self.name.endswith(f".{name}")

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, uncompressed.

        Raises
        ------
        UserError
            As `compressed.read_blocks`; where the archive is damaged.
        """
        if self.member is None:
            yield from read_blocks(self.path)
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{self}: the archive cannot be read ({cut(str(error))}); download it again") from None

    def lines(self) -> Iterator[str]:
        """Yield its lines as text, with their ends.

        Raises
        ------
        UserError
            Also where it is not UTF-8.
        """
        rest = b""
        try:
            for block in self.blocks():
                *whole, rest = (rest + block).split(b"\n")
                check_line(self, len(rest))
                yield from (f"{line.decode()}\n" for line in whole)
            if rest:
                yield rest.decode()
        except UnicodeDecodeError:
            raise UserError(f"{self}: is no text in UTF-8") from None

    def table(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the rows of a table with a header, each with its place; tabs where the header has one, else commas.

        Raises
        ------
        UserError
            Also where a row has another number of fields than the header.
        """
        lines = self.lines()
        header = next(lines, "").lstrip("\ufeff")
        delimiter = "\t" if "\t" in header else ","
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        for number, fields in enumerate(csv.reader(lines, delimiter=delimiter), 1):
            if not fields:
                continue
            if len(fields) != len(names):
                raise UserError(f"{self}: row {number} has {len(fields)} fields; expected {len(names)}, as the header")
            yield f"{self}: row {number}", dict(zip(names, fields, strict=True))

    def records(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the records of a FASTA file, of labels too: its place, header, and the lines below it, joined.

        Raises
        ------
        UserError
            As `fasta.cut_chunks`.
        """
        for chunk in cut_chunks(str(self), self.blocks(), BLOCK_BYTES):
            for number, text in enumerate(chunk.texts(), chunk.first):
                header, _, body = text.partition(b"\n")
                where = f"{self}: record {number}"
                yield where, header.decode("utf-8", "backslashreplace").strip(), b"".join(body.split())


@dataclass(frozen=True, slots=True)
class Source:
    """Files that belong together.

    Parameters
    ----------
    files : tuple of DataFile
    split : str or None
        Of all proteins in them, where given.
    """

    files: tuple[DataFile, ...]
    split: str | None = None

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(str(file.path) for file in self.files))

    def find(self, name: str) -> DataFile | None:
        """Return the file of a name, compressed or not; None where there is none.

        Raises
        ------
        UserError
            Where there are several.
        """
        found = [file for file in self.files if file.is_called(name)]
        exact = [file for file in found if file.name == name]
        found = exact if len(exact) == 1 else found
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} may both be {name}; give the files one by one")
        return found[0] if found else None


def open_sources(data: Sequence[str | os.PathLike]) -> list[Source]:
    """Sort what a user named: each folder and archive is a source; files given one by one are one together.

    ``val=FILE`` is a source of its own, all of whose proteins are of that split.

    Raises
    ------
    UserError
        Where a path is missing.
    """
    sources: list[Source] = []
    loose: list[DataFile] = []
    for each in data:
        split, path = split_and_path(each)
        if split:
            sources.append(Source(tuple(files_in(path)), split))
        elif path.is_dir() or is_archive(path):
            sources.append(Source(tuple(files_in(path))))
        else:
            loose += files_in(path)
    return [*sources, Source(tuple(loose))] if loose else sources


def split_and_path(name: str | os.PathLike) -> tuple[str | None, Path]:
    """Return the path that a user named, and the split of ``val=FILE``."""
    split, equals, path = os.fspath(name).partition("=")
    return (split, Path(path)) if equals and split in SPLITS else (None, Path(name))


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip archive, by its name."""
    return path.suffix == ".zip"


def files_in(path: Path) -> list[DataFile]:
    """List the files of a folder, or the members of an archive; a file is the only one.

    Raises
    ------
    UserError
        Where there is nothing, or the archive is damaged.
    """
    if path.is_dir():
        return [DataFile(each) for each in sorted(path.iterdir()) if each.is_file()]
    check_input(path, "a file, a folder or a zip archive")
    if not is_archive(path):
        return [DataFile(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise UserError(f"{path}: no zip archive, or a damaged one; download it again") from None
    # Archives made on a Mac have a second member for each.
    return [DataFile(path, name) for name in names if not name.endswith("/") and not name.startswith("__MACOSX")]


def digests(files: Sequence[DataFile]) -> dict[str, str]:
    """Return the SHA-256 of the files on disk that were read, by path."""
    return {str(path): file_sha256(path) for path in sorted({file.path for file in files})}
