"""What the filter keeps and drops beyond length: members, fragments, taxa, names, non-standard residues."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from embedome.catalog.criteria import Criteria
from embedome.common.errors import UserError
from helpers.filtered import Filtered, run_filter
from hypothesis import given
from hypothesis import strategies as st

RECORDS = {
    "UniRef50_A Kinase n=1 Tax=Homo sapiens TaxID=9606 RepID=A_HUMAN": "MKVLA",
    "UniRef50_B Kinase (Fragment) n=7 Tax=Mus musculus TaxID=10090 RepID=B_MOUSE": "MKVLAA",
    "UniRef50_C Toxin n=3 Tax=Bacillus TaxID=1386 RepID=C": "MXBUA",
    "sp|D|D_ECOLI Porin OS=Escherichia coli OX=562 GN=d PE=1 SV=1": "MKXXXX",
    "e uncharacterised": "MK",
}
# 1 root, 2 bacteria, 562 and 1386 below them, 9606 and 10090 below 40674.
NODES = "".join(
    f"{taxon}\t|\t{parent}\t|\tno rank\t|\t\t|\n"
    for taxon, parent in [(1, 1), (2, 1), (562, 2), (1386, 2), (40674, 1), (9606, 40674), (10090, 40674)]
)


def run(folder: Path, **limits: object) -> Filtered:
    path = folder / "x.fasta"
    path.write_text("".join(f">{header}\n{sequence}\n" for header, sequence in RECORDS.items()))
    return run_filter(folder / "out", path, **limits)


def kept(filtered: Filtered) -> str:
    """The last letters of the kept ids."""
    return "".join(name.removeprefix("UniRef50_")[0].upper() for (name,) in filtered.rows("id")).replace("S", "D")


@pytest.mark.parametrize(
    ("limits", "names", "reason", "detail"),
    [
        ({}, "ABCED", None, None),
        ({"min_members": 3}, "BCED", "few-members", "1 members; at least 3"),
        ({"fragments": False}, "ACED", "fragment", "a fragment, as its header says"),
        ({"max_nonstandard": 0.5}, "ABE", "nonstandard-residues", "4 of 6 residues; at most 0.5 of all"),
        ({"reject_residues": "BZ"}, "ABED", "nonstandard-residues", "1 of 5 residues; none of B, Z"),
        ({"include_taxa": [9606, 562]}, "AD", "taxon", "taxon not given; not one of include_taxa"),
        ({"exclude_taxa": [9606, 1386]}, "BED", "taxon", "taxon 9606; one of exclude_taxa"),
        ({"include_names": ["^Kin", "orin$"]}, "ABD", "name", "no match in include_names"),
        ({"exclude_names": ["(?i)KINASE"]}, "CED", "name", "a match in exclude_names"),
    ],
)
def test_each_limit(
    tmp_path: Path, limits: dict[str, object], names: str, reason: str | None, detail: str | None
) -> None:
    filtered = run(tmp_path, **limits)
    assert sorted(kept(filtered)) == sorted(names)
    dropped = filtered.rejected("reason, detail")
    assert {each for each, _ in dropped} == ({reason} if reason else set())
    assert detail is None or detail in {each for _, each in dropped}
    assert filtered.account["read"] == 5 == len(names) + len(dropped)


def test_the_first_reason_counts(tmp_path: Path) -> None:
    filtered = run(tmp_path, min_length=6, min_members=5, exclude_taxa=[9606], max_nonstandard=0)
    assert kept(filtered) == "B"
    assert filtered.account["rejected"] == {"nonstandard-residues": 1, "too-short": 3}


@pytest.mark.parametrize(("odd", "length"), [(29, 100), (57, 100), (29, 50), (63, 90)])
def test_a_record_at_the_limit_is_kept(tmp_path: Path, odd: int, length: int) -> None:
    path = tmp_path / "x.fasta"
    path.write_text("".join(f">{odd + more}\n{'X' * (odd + more)}{'A' * (length - odd - more)}\n" for more in (0, 1)))
    filtered = run_filter(tmp_path / "out", path, max_nonstandard=odd / length)
    assert filtered.rows("id") == [(str(odd),)]


def test_taxa_are_known_by_what_they_are_and_not_by_the_file(tmp_path: Path) -> None:
    for folder, more in (("one", ""), ("two", "9999\t|\t40674\t|\n"), ("three", "9999\t|\t2\t|\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "nodes.dmp").write_text(NODES + more)
    one, two, three = (
        Criteria(include_taxa=[2], taxonomy=str(tmp_path / folder / "nodes.dmp")).taxa_identity()
        for folder in ("one", "two", "three")
    )
    assert one == two != three
    assert [each["include"]["count"] for each in (one, three)] == [3, 4]
    digest = hashlib.sha256(b"2\n562\n1386").hexdigest()
    assert one == {"include": {"count": 3, "sha256": digest}}


def test_nonstandard_residues_are_written_as_x(tmp_path: Path) -> None:
    filtered = run(tmp_path, mask_residues="BJOUZ", max_nonstandard=0.6)
    rows = dict(filtered.rows("representative, sequence"))
    assert rows["C"] == "MXXXA"
    assert rows["A_HUMAN"] == "MKVLA"


def test_masked_sequences_that_are_then_equal_are_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "x.fasta"
    path.write_text(">a\nMUK\n>b\nMBK\n>c\nMXK\n>d\nMK\n")
    assert run_filter(tmp_path / "keep", path).account["duplicates"] == 0
    filtered = run_filter(tmp_path / "mask", path, mask_residues="BU")
    assert filtered.rows("id, duplicate_of") == [("a", None), ("b", "a"), ("c", "a"), ("d", None)]
    filtered = run_filter(tmp_path / "some", path, mask_residues="B")
    assert filtered.rows("id, sequence, duplicate_of") == [
        ("a", "MUK", None), ("b", "MXK", None), ("c", "MXK", "b"), ("d", "MK", None)
    ]  # fmt: skip


def archive(folder: Path, below: str = "", **members: str) -> Path:
    path = folder / "taxdump.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"{below}{name}.dmp")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_a_taxon_takes_its_descendants_along(tmp_path: Path, packed: bool) -> None:
    merged = "10091\t|\t10090\t|\n"
    (tmp_path / "nodes.dmp").write_text(NODES)
    (tmp_path / "merged.dmp").write_text(merged)
    taxonomy = archive(tmp_path, nodes=NODES, merged=merged) if packed else tmp_path / "nodes.dmp"
    assert sorted(kept(run(tmp_path, include_taxa=[2], taxonomy=taxonomy))) == ["C", "D"]
    assert sorted(kept(run(tmp_path, exclude_taxa=[40674], taxonomy=taxonomy))) == ["C", "D", "E"]
    flags = Criteria(include_taxa=[40674], taxonomy=taxonomy).taxa["include"]
    assert [taxon for taxon, flag in enumerate(flags) if flag] == [9606, 10090, 10091, 40674]
    # What was merged into another one is that one.
    flags = Criteria(include_taxa=[10091], taxonomy=taxonomy).taxa["include"]
    assert [taxon for taxon, flag in enumerate(flags) if flag] == [10090, 10091]


def test_an_archive_may_have_been_packed_from_its_folder(tmp_path: Path) -> None:
    taxonomy = archive(tmp_path, "./", nodes=NODES)
    assert sorted(kept(run(tmp_path, include_taxa=[2], taxonomy=taxonomy))) == ["C", "D"]


@given(st.lists(st.integers(0, 30), min_size=30, max_size=30), st.integers(1, 30))
def test_descendants_are_those_of_a_walk_to_the_root(
    tmp_path_factory: pytest.TempPathFactory, above: list[int], chosen: int
) -> None:
    # Every parent has a smaller number, so that there is no ring.
    parents = {taxon: max(1, above[taxon - 1] % taxon) for taxon in range(1, 31)}
    path = tmp_path_factory.getbasetemp() / "nodes.dmp"
    path.write_text("".join(f"{taxon}\t|\t{parent}\t|\n" for taxon, parent in parents.items()))

    def below(taxon: int) -> bool:
        while taxon not in (1, chosen):
            taxon = parents[taxon]
        return taxon == chosen

    flags = Criteria(include_taxa=[chosen], taxonomy=path).taxa["include"]
    assert {taxon for taxon, flag in enumerate(flags) if flag} == {taxon for taxon in parents if below(taxon)}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"include_names": ["(a"]}, r"filter\.include_names has '\(a'; expected a regular expression"),
        ({"exclude_taxa": [77], "taxonomy": "nodes.dmp"}, "no taxon 77 there"),
        ({"include_taxa": [2], "taxonomy": "none.dmp"}, "none.dmp: no such file"),
        ({"include_taxa": [2], "taxonomy": "x.fasta"}, "expected NCBI's nodes.dmp or taxdump.tar.gz"),
        ({"include_taxa": [2], "taxonomy": "empty.dmp"}, "expected NCBI's nodes.dmp or taxdump.tar.gz"),
        ({"include_taxa": [2], "taxonomy": "broken.tar.gz"}, "expected NCBI's nodes.dmp or taxdump.tar.gz"),
        ({"include_taxa": [2], "taxonomy": "folder.tar"}, "folder.tar: cannot be read; expected NCBI's nodes.dmp"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, limits: dict[str, object], message: str) -> None:
    (tmp_path / "nodes.dmp").write_text(NODES)
    (tmp_path / "empty.dmp").write_text("")
    (tmp_path / "x.fasta").write_text(">a\nMK\n")
    (tmp_path / "broken.tar.gz").write_bytes(b"\x1f\x8b nothing")
    with tarfile.open(tmp_path / "folder.tar", "w") as tar:
        folder = tarfile.TarInfo("nodes.dmp")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    if "taxonomy" in limits:
        limits = {**limits, "taxonomy": tmp_path / str(limits["taxonomy"])}
    with pytest.raises(UserError, match=message):
        Criteria(**limits)
