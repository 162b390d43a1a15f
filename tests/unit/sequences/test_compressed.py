"""Reading on a machine that lacks the packages which unpack files."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from backports import zstd
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
