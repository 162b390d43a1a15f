"""Compressed files, and reading on a machine that lacks the packages which unpack them."""

import bz2
import gzip
import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from backports import zstd
from embedome.common.errors import UserError
from embedome.sequences.compressed import read_blocks
from embedome.sequences.fasta import read_entries
from helpers.paths import SCRIPTS

TEXT = b">a\nMKV\n>b\nMKVL\n"
# A module that is None cannot be imported: what is not installed looks the same to who imports it.
READ = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
sys.modules.update(dict.fromkeys(sys.argv[2].split()))
from embedome.common.errors import UserError
from embedome.sequences.fasta import read_entries
try:
    print(*[entry.header.decode() for entry in read_entries(sys.argv[1])])
except UserError as error:
    print("refused:", error)
"""
GZIP, ZSTD = "isal", "backports backports.zstd compression compression.zstd"


def read_without(modules: str, path: Path) -> str:
    """What a process prints that reads the file and lacks these modules."""
    result = subprocess.run([sys.executable, "-c", READ, str(path), modules], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(("missing", "pack"), [(f"{GZIP} {ZSTD}", bytes), (ZSTD, gzip.compress), (GZIP, zstd.compress)])
def test_a_file_is_read_without_the_packages_that_it_does_not_need(tmp_path, missing, pack):
    path = tmp_path / "x.fasta"
    path.write_bytes(pack(TEXT))
    assert read_without(missing, path) == "a b"


@pytest.mark.parametrize(
    ("missing", "pack", "package"), [(GZIP, gzip.compress, "isal"), (ZSTD, zstd.compress, "backports.zstd")]
)
def test_a_missing_package_is_named_with_the_file(tmp_path, missing, pack, package):
    path = tmp_path / "x.fasta"
    path.write_bytes(pack(TEXT))
    [line] = read_without(missing, path).splitlines()
    assert line.startswith(f"refused: {path}: compressed with ")
    assert f"the package {package} is needed" in line
    assert line.endswith("install it, or decompress the file")


def zipped(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("x.fasta")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


LONG = b"".join(b">%d\n%s\n" % (number, b"MKV" * (number % 500)) for number in range(5000))
PACKED = {
    "bzip2": bz2.compress,
    "bzip2 in two streams": lambda data: bz2.compress(data[:9000]) + bz2.compress(data[9000:]),
    "xz": lzma.compress,
    "xz in two streams": lambda data: lzma.compress(data[:9000]) + bytes(8) + lzma.compress(data[9000:]) + bytes(4),
    "zip": lambda data: zipped(("x.fasta", data)),
    "zip, stored, in a folder": lambda data: zipped(("a/", b""), ("a/x.fasta", data), compression=zipfile.ZIP_STORED),
    "zip of a Mac": lambda data: zipped(("x.fasta", data), ("__MACOSX/._x.fasta", b"x"), (".DS_Store", b"x")),
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_other_compressions_are_read_and_digested_as_they_lie_there(tmp_path, pack):
    path = tmp_path / "x"
    path.write_bytes(pack(LONG))
    digest = hashlib.sha256()
    assert b"".join(read_blocks(path, digest)) == LONG
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("pack", [PACKED["bzip2"], PACKED["xz"], PACKED["zip"]])
def test_what_is_cut_short_or_damaged_is_refused_in_a_line(tmp_path, pack):
    path, data = tmp_path / "x", pack(LONG)
    middle = len(data) // 2
    for broken in (data[:middle], data[:-3], data[:middle] + b"abcd" + data[middle + 4 :]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"the compressed data (are damaged|end too early)"):
            list(read_blocks(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(gzip.compress(TEXT)), "holds a file compressed with gzip; unpack it"),
        (gzip.compress(bz2.compress(TEXT)), "holds a file compressed with bzip2; unpack it"),
        (zipped(("x.fasta.gz", gzip.compress(TEXT))), "holds a file compressed with gzip; unpack it"),
        (tarred(TEXT), "holds a tar archive; unpack it"),
        (gzip.compress(tarred(TEXT)), "holds a tar archive; unpack it"),
        (lzma.compress(tarred(TEXT)), "holds a tar archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "holds a 7z archive; unpack it"),
        (zipped(("a.fasta", TEXT), ("b.fasta", TEXT)), r"a zip archive of 2 files \(a.fasta, b.fasta\); expected one"),
        (zipped(), r"the compressed data are damaged|begins with|a zip archive of 0 files"),
    ],
    # Archives hold the time of day; every process has to find the same names.
    ids=range(9),
)
def test_what_is_not_read_is_named(tmp_path, data, message):
    path = tmp_path / "x.fasta.gz"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(read_entries(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_xz_file_that_wants_gigabytes_is_refused(tmp_path):
    path = tmp_path / "x.xz"
    # The byte of the window's size, in the header of the first block, and that header's checksum.
    data = bytearray(lzma.compress(TEXT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    data[16] = 38  # 2 GiB
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="unpacking it takes too much memory"):
        list(read_blocks(path))
