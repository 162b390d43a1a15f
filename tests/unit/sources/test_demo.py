"""The demo release: form, truth and reproducibility, read back with parsers that share nothing with the generator."""

import gzip
import hashlib
import re
import struct
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from Bio import SeqIO
from embedome.common.errors import UserError
from embedome.sources.demo import families, headers
from embedome.sources.demo.release import BLOCK, MAX_SEQUENCES, write_release

# Published in UniProt's help page on accession numbers.
UNIPROTKB = r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9]([A-Z][A-Z0-9]{2}[0-9]){1,2}"
ACCESSION = re.compile(rf"UPI[0-9A-F]{{10}}|(?:{UNIPROTKB})(-[1-9][0-9]*)?")
FILES = {"uniref50.fasta.gz", "families.tsv.gz", "uniref50.release_note", "RELEASE.metalink"}
AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")


def read(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("ascii")


def entries(directory: Path) -> list[list[str]]:
    """Header line and sequence lines of each record; a name may hold a ">"."""
    first, *others = read(directory / "uniref50.fasta.gz").removesuffix("\n").split("\n>")
    assert first.startswith(">")
    return [part.split("\n") for part in (first[1:], *others)]


def records(directory: Path) -> list[tuple[str, str]]:
    """Header line and sequence of each record."""
    return [(head, "".join(lines)) for head, *lines in entries(directory)]


def truth(directory: Path) -> list[tuple[str, str]]:
    lines = read(directory / "families.tsv.gz").splitlines()
    assert lines[0] == "id\tfamily"
    return [tuple(line.split("\t")) for line in lines[1:]]


def parse_from_right(header: str) -> dict[str, str]:
    fields = {}
    for key in ("RepID", "TaxID", "Tax", "n"):
        header, found, fields[key] = header.rpartition(f" {key}=")
        assert found
    fields["id"], _, fields["name"] = header.partition(" ")
    return fields


def kmers(sequence: str) -> set[str]:
    return {sequence[k : k + 3] for k in range(len(sequence) - 2)}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """The size of the default run."""
    directory = tmp_path_factory.mktemp("release")
    write_release(directory, sequences=2000, families=60, seed=7)
    return directory


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    """A release of several blocks, whose last family comes in the last block."""
    directory = tmp_path_factory.mktemp("blocks")
    write_release(directory, sequences=3 * BLOCK + 1, families=3000, seed=1)
    return directory


def test_same_arguments_same_bytes(release, tmp_path):
    write_release(tmp_path / "made", sequences=2000, families=60, seed=7)
    assert {path.name for path in (tmp_path / "made").iterdir()} == FILES
    for name in FILES:
        assert (tmp_path / "made" / name).read_bytes() == (release / name).read_bytes()


def test_another_seed_other_sequences_and_ids(release, tmp_path):
    write_release(tmp_path, sequences=2000, families=60, seed=8)
    ours, theirs = records(release), records(tmp_path)
    assert not {sequence for _, sequence in ours} & {sequence for _, sequence in theirs}
    assert len({head.split()[0] for head, _ in ours} & {head.split()[0] for head, _ in theirs}) < 20


def test_gzip_header_holds_no_name_and_no_time(release):
    for name in ("uniref50.fasta.gz", "families.tsv.gz"):
        magic, flags, mtime = struct.unpack("<2sxBI", (release / name).read_bytes()[:8])
        assert (magic, flags, mtime) == (b"\x1f\x8b", 0, 0)


@pytest.mark.parametrize("made", ["release", "blocks"])
def test_ids_are_unique_valid_and_unsorted(made, request):
    ids = [head.split()[0] for head, _ in records(request.getfixturevalue(made))]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("UniRef50_") and ACCESSION.fullmatch(name[9:]) for name in ids)
    assert ids != sorted(ids)
    forms = Counter("UPI" if name[9:12] == "UPI" else len(name) - 9 for name in ids)
    assert set(forms) == {"UPI", 6, 8, 10}
    assert min(forms.values()) > 5


def test_an_isoform_has_its_canonical_record_beside_it(blocks):
    ids = {head.split()[0] for head, _ in records(blocks)}
    isoforms = {name for name in ids if "-" in name}
    assert isoforms
    assert {name.partition("-")[0] for name in isoforms} <= ids


@pytest.mark.parametrize("size", [1, 2, 3, 10, 36, 1000, 2**16, 99_991])
def test_scatter_is_one_to_one(size):
    assert sorted(headers.scatter(np.arange(size), size, 12345)) == list(range(size))


def test_accessions_stay_unique_far_into_a_large_release():
    rng, shifts = np.random.default_rng(0), [2**32 - 1] * len(headers.FORMS)
    near = headers.make_accessions(rng, 50_000, [0] * len(headers.FORMS), shifts)
    far = headers.make_accessions(rng, 50_000, [int(share * 20_000_000) for share, _, _ in headers.FORMS], shifts)
    assert len({*near, *far}) == 100_000
    assert all(map(ACCESSION.fullmatch, far))


def test_the_rarest_form_has_numbers_enough():
    for share, alphabets, _ in headers.FORMS:
        assert 1.5 * share * MAX_SEQUENCES < np.prod([float(len(alphabet)) for alphabet in alphabets])


@pytest.mark.parametrize("made", ["release", "blocks"])
def test_headers_parse_from_the_right(made, request):
    known = {(name, str(taxid)) for name, taxid, _ in headers.TAXA}
    names = set()
    for head, _ in records(request.getfixturevalue(made)):
        fields = parse_from_right(head)
        accession = fields["id"].removeprefix("UniRef50_")
        assert int(fields["n"]) >= 1
        assert (fields["Tax"], fields["TaxID"]) in known
        whole = accession.startswith("UPI") or "-" in accession
        assert re.fullmatch(re.escape(accession) + ("" if whole else "_[A-Z0-9]{5}"), fields["RepID"])
        assert fields["name"] == fields["name"].strip() != ""
        assert ("-" in accession) == fields["name"].startswith("Isoform ")
        names.add(fields["name"])
    for trap in ("=", " n=", " Tax=", " TaxID=", " RepID=", "(Fragment)", "[", ">", '"', "/", "'"):
        assert any(trap in name for name in names), trap


def test_lines_hold_60_residues(release):
    for _, *lines in entries(release):
        assert all(len(line) == 60 for line in lines[:-1])
        assert 1 <= len(lines[-1]) <= 60


def test_metalink_gives_size_and_md5(release):
    space = {"m": "http://www.metalinker.org/"}
    root = ElementTree.parse(release / "RELEASE.metalink").getroot()
    assert (root.tag, root.get("version")) == (f"{{{space['m']}}}metalink", "3.0")
    assert not re.match(r"\d{4}_\d\d", root.findtext("m:version", namespaces=space))
    for path in ("publisher/name", "publisher/url", "license/name", "license/url", "description"):
        assert root.findtext("/".join(f"m:{tag}" for tag in path.split("/")), namespaces=space)
    files = root.findall("m:files/m:file", space)
    assert [entry.get("name") for entry in files] == ["uniref50.fasta.gz", "uniref50.release_note"]
    for entry in files:
        content = (release / entry.get("name")).read_bytes()
        assert int(entry.findtext("m:size", namespaces=space)) == len(content)
        digest = entry.findtext("m:verification/m:hash[@type='md5']", namespaces=space)
        assert digest == hashlib.md5(content).hexdigest()
        assert entry.findtext("m:resources/m:url", namespaces=space)


def test_release_note_counts(blocks):
    note = (blocks / "uniref50.release_note").read_text()
    counts = dict(re.findall(r"Number of (\w+): ([\d,]+)", note))
    read_back = len(records(blocks))
    assert {key: int(value.replace(",", "")) for key, value in counts.items()} == {
        "clusters": read_back,
        "sequences": read_back,
    }
    assert re.search(r"Release: \S+, \d\d-\w{3}-\d{4}\n", note)
    assert "ynthetic" in note


def test_biopython_reads_it(blocks):
    with gzip.open(blocks / "uniref50.fasta.gz", "rt") as handle:
        parsed = [(record.description, str(record.seq)) for record in SeqIO.parse(handle, "fasta")]
    assert len(parsed) == 3 * BLOCK + 1
    assert parsed == records(blocks)


@pytest.mark.parametrize(("made", "families"), [("release", 60), ("blocks", 3000)])
def test_truth_covers_every_id_in_order(made, families, request):
    directory = request.getfixturevalue(made)
    rows = truth(directory)
    assert [name for name, _ in rows] == [head.split()[0] for head, _ in records(directory)]
    assert len({family for _, family in rows}) == families


def test_family_sizes_are_uneven_and_families_are_mixed(release):
    families = [family for _, family in truth(release)]
    sizes = sorted(Counter(families).values())
    assert sizes[-1] > 8 * sizes[0]
    assert sum(a == b for a, b in pairwise(families)) < len(families) / 10


def test_members_of_a_family_are_alike(tmp_path):
    write_release(tmp_path, sequences=250, families=6, seed=3)
    content = {head.split()[0]: kmers(sequence) for head, sequence in records(tmp_path) if len(sequence) > 60}
    family = dict(truth(tmp_path))
    within, between, nearest = [], [], defaultdict(lambda: (-1.0, ""))
    for a, b in combinations(content, 2):
        jaccard = len(content[a] & content[b]) / len(content[a] | content[b])
        (within if family[a] == family[b] else between).append(jaccard)
        nearest[a], nearest[b] = max(nearest[a], (jaccard, b)), max(nearest[b], (jaccard, a))
    assert np.mean(within) > 4 * np.mean(between)
    assert np.mean([family[a] == family[b] for a, (_, b) in nearest.items()]) > 0.97


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_short_long_and_repeated_records(tmp_path, seed):
    write_release(tmp_path, sequences=2000, families=60, seed=seed)
    sequences = [sequence for _, sequence in records(tmp_path)]
    lengths = np.array([len(sequence) for sequence in sequences])
    # Two short members of a family can be equal by chance, too.
    assert 10 <= len(sequences) - len(set(sequences)) <= 13
    assert lengths.min() >= 11
    assert np.sum(lengths < 20) == 20
    assert np.sum(lengths >= 2000) == 4
    assert 5000 < lengths.max() <= 6000
    odd = [sequence for sequence in sequences if set(sequence) - AMINO_ACIDS]
    assert 10 < len(odd) < 80
    assert set().union(*odd) == AMINO_ACIDS | set("XBZUO")


def test_a_long_record_from_500_sequences_on(tmp_path):
    write_release(tmp_path, sequences=500, families=500, seed=0)
    assert max(len(sequence) for _, sequence in records(tmp_path)) > 5000


def test_repeated_sequences_share_a_family(blocks):
    family = dict(truth(blocks))
    found = defaultdict(set)
    for head, sequence in records(blocks):
        found[sequence].add(family[head.split()[0]])
    assert 31 <= 3 * BLOCK + 1 - len(found) <= 35
    assert all(len(names) == 1 for names in found.values())


def test_lengths_and_composition_are_those_of_proteins(tmp_path):
    write_release(tmp_path, sequences=4000, families=4000, seed=0)
    sequences = [sequence for _, sequence in records(tmp_path)]
    logs = np.log([len(sequence) for sequence in sequences if 30 < len(sequence) < 2000])
    assert np.median(logs) == pytest.approx(5.43, abs=0.08)
    assert np.std(logs) == pytest.approx(0.675, abs=0.05)
    counts = Counter("".join(sequences))
    total = sum(families.BACKGROUND.values())
    for residue, percent in families.BACKGROUND.items():
        assert 100 * counts[residue] / counts.total() == pytest.approx(100 * percent / total, abs=0.5)
    assert len(set(truth(tmp_path))) == len({family for _, family in truth(tmp_path)}) == 4000


@pytest.mark.parametrize(("sequences", "families"), [(1, 1), (2, 2), (7, 3), (250, 250), (BLOCK + 1, 1)])
def test_small_and_lopsided_releases(tmp_path, sequences, families):
    write_release(tmp_path, sequences=sequences, families=families, seed=0)
    rows = truth(tmp_path)
    assert len(records(tmp_path)) == len(rows) == sequences
    assert len({family for _, family in rows}) == families


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"sequences": 0, "families": 1, "seed": 0}, "demo.sequences"),
        ({"sequences": 10**9, "families": 1, "seed": 0}, "demo.sequences"),
        ({"sequences": 5, "families": 0, "seed": 0}, "demo.families"),
        ({"sequences": 5, "families": 6, "seed": 0}, "demo.families"),
        ({"sequences": 10**7, "families": 10**7, "seed": 0}, "demo.families"),
        ({"sequences": 5, "families": 1, "seed": -1}, "demo.seed"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, key):
    with pytest.raises(UserError, match=rf"^{re.escape(key)} is "):
        write_release(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedome.sources.demo.release.make_headers", fail)
    with pytest.raises(OSError, match="No space"):
        write_release(tmp_path, sequences=10, families=2, seed=0)
    assert not list(tmp_path.iterdir())
