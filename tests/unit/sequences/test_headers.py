"""Header grammars: UniRef, UniProtKB and free headers."""

import time

import pyarrow as pa
import pytest
from embedome.sequences.headers import FIELDS, Header, parse_description, parse_descriptions
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (
            "Peptidylprolyl isomerase n=1 Tax=Triplophysa tibetana TaxID=1572043 RepID=A0A5A9P0L4_9TELE",
            Header("Peptidylprolyl isomerase", 1, "Triplophysa tibetana", 1572043, "A0A5A9P0L4_9TELE"),
        ),
        (  # up to 2010 there was no TaxID
            "Putative transcription factor 001R n=4 Tax=Ranavirus RepID=001R_FRG3G",
            Header("Putative transcription factor 001R", 4, "Ranavirus", None, "001R_FRG3G"),
        ),
        (
            "Ras n=3 GTPase n=12 Tax=Homo sapiens TaxID=9606 RepID=RASH_HUMAN",
            Header("Ras n=3 GTPase", 12, "Homo sapiens", 9606, "RASH_HUMAN"),
        ),
        (
            "Subunit Tax=x n=1 OS=y RepID=z n=5 Tax=Bos taurus TaxID=9913 RepID=UPI0001",
            Header("Subunit Tax=x n=1 OS=y RepID=z", 5, "Bos taurus", 9913, "UPI0001"),
        ),
        (
            "Odd n=3 Tax=y TaxID=1 n=5 Tax=Bos taurus TaxID=9913 RepID=UPI0001",
            Header("Odd n=3 Tax=y TaxID=1", 5, "Bos taurus", 9913, "UPI0001"),
        ),
        (
            "alpha=beta n=2 Tax=Escherichia coli (strain K12 / MG1655) TaxID=511145 RepID=A_B",
            Header("alpha=beta", 2, "Escherichia coli (strain K12 / MG1655)", 511145, "A_B"),
        ),
        (
            "Protein n=2 Tax=unclassified n=3 bacterium TaxID=77133 RepID=A",
            Header("Protein", 2, "unclassified n=3 bacterium", 77133, "A"),
        ),
        ("P n=2 Tax=root TaxID= RepID=A", Header("P", 2, "root", None, "A")),
        ("P n=2 Tax=root TaxID=N/A RepID=A", Header("P", 2, "root", None, "A")),
        ("P n=2 Tax=root TaxID=67581.0 RepID=A", Header("P", 2, "root", None, "A")),
        ("P n=2 Tax=root TaxID=99999999999 RepID=A", Header("P", 2, "root", None, "A")),
        ("P n=2147483648 Tax=root TaxID=2147483647 RepID=A", Header("P", None, "root", 2147483647, "A")),
        ("P n=2 Tax=root TaxID=1 RepID=A ", Header("P", 2, "root", 1, "A")),
        # Without a name
        ("n=2 Tax=root TaxID=1 RepID=A", Header("", 2, "root", 1, "A")),
        (" n=2 Tax=root TaxID=1 RepID=A", Header("", 2, "root", 1, "A")),
        ("n=2 Tax=n=3 RepID=A", Header("", 2, "n=3", None, "A")),
        ("n=3 Tax=x n=2 Tax=root RepID=A", Header("n=3 Tax=x", 2, "root", None, "A")),
        # Without a taxon, or with empty values
        ("P n=2 TaxID=1 RepID=A", Header("P", 2, None, 1, "A")),
        ("n=2 TaxID=1 RepID=A", Header("", 2, None, 1, "A")),
        ("P n=3 n=2 TaxID=1 RepID=A", Header("P n=3", 2, None, 1, "A")),
        ("P n=2 Tax=root n=3 TaxID=1 RepID=A", Header("P", 2, "root n=3", 1, "A")),
        ("P n=2 Tax= TaxID=1 RepID=A", Header("P", 2, None, 1, "A")),
        ("P n= Tax=root TaxID=1 RepID=A", Header("P", None, "root", 1, "A")),
        ("n= Tax= TaxID= RepID=A", Header("", None, None, None, "A")),
    ],
)
def test_uniref(description: str, expected: Header) -> None:
    assert parse_description(description) == expected


@pytest.mark.parametrize(
    ("description", "name", "taxon", "taxid"),
    [
        ("Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1", "Insulin", "Homo sapiens", 9606),
        ("Insulin OS=Homo sapiens OX=9606 PE=1 SV=1", "Insulin", "Homo sapiens", 9606),
        ("Insulin OS=Homo sapiens GN=INS PE=1 SV=1", "Insulin", "Homo sapiens", None),  # up to 2018
        ("Insulin OS=Homo sapiens", "Insulin", "Homo sapiens", None),
        ("Isoform 2 of Insulin OS=Homo sapiens OX=9606 GN=INS", "Isoform 2 of Insulin", "Homo sapiens", 9606),
        (
            "6-phosphogluconate dehydrogenase OS=Escherichia coli (strain K12) OX=83333 GN=gnd PE=1 SV=2",
            "6-phosphogluconate dehydrogenase",
            "Escherichia coli (strain K12)",
            83333,
        ),
        (
            "PP2A OS=Saccharomyces cerevisiae (strain ATCC 204508 / S288c) GN=RTS1 PE=1 SV=2",
            "PP2A",
            "Saccharomyces cerevisiae (strain ATCC 204508 / S288c)",
            None,
        ),
        (
            "Protein OS=9 homolog OS=Mus musculus OX=10090 GN=a b PE=5 SV=12",
            "Protein OS=9 homolog",
            "Mus musculus",
            10090,
        ),
        ("ATP synthase (EC 7.1.2.2) A=B OS=Bos taurus OX=9913", "ATP synthase (EC 7.1.2.2) A=B", "Bos taurus", 9913),
    ],
)
def test_uniprotkb(description: str, name: str, taxon: str, taxid: int | None) -> None:
    assert parse_description(description) == Header(name, None, taxon, taxid, None)


@pytest.mark.parametrize(
    "description",
    [
        "",
        "some protein",
        "TaxID=67581.0 RepID=A0A007_STRVD",  # a rewritten UniRef header
        "cluster n=5 RepID=A",
        "n = 5",
        "[Homo sapiens] OS = none",
        "a=b GN=c OX=9606",
        "P n=x Tax=root TaxID=1 RepID=A",
        "P Tax=root TaxID=1 RepID=A",
        "P n=2 Tax=root TaxID=1",
        "P n=2 Tax=root TaxID=1 RepID=",
        "P n=2 Tax=root TaxID=1 RepID=A B",
        "Pn=2 Tax=root TaxID=1 RepID=A",
    ],
)
def test_free_headers_are_kept_whole(description: str) -> None:
    assert parse_description(description) == Header(description)


word = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)
number = st.integers(0, 2**31 - 1)


def words(*odd: str) -> st.SearchStrategy[str]:
    """A few words, some of them these odd ones."""
    return st.lists(word | st.sampled_from(["=", "(strain", "b)", *odd]), min_size=1, max_size=5).map(" ".join)


@given(
    name=st.just("") | words("n=4", "n=", "Tax=x", "TaxID=3", "RepID=y", "OS=z", "OX=7"),
    members=number,
    taxon=words("OS=z", "OX=7", "GN=a", "n="),
    taxid=st.none() | number,
    representative=word,
)
def test_uniref_round_trip(name: str, members: int, taxon: str, taxid: int | None, representative: str) -> None:
    taxid_field = f" TaxID={taxid}" if taxid is not None else ""
    description = f"{name} n={members} Tax={taxon}{taxid_field} RepID={representative}"
    for text in (description, description.strip()):
        assert parse_description(text) == Header(name, members, taxon, taxid, representative)


@given(
    name=st.just("") | words("n=4", "n=", "TaxID=3", "RepID=y", "OS=z", "OX=7"),
    members=number,
    taxid=number,
    representative=word,
)
def test_uniref_round_trip_without_taxon(name: str, members: int, taxid: int, representative: str) -> None:
    description = f"{name} n={members} TaxID={taxid} RepID={representative}".strip()
    assert parse_description(description) == Header(name, members, None, taxid, representative)


@given(
    name=words("n=4", "Tax=x", "TaxID=3", "OS=z", "OX=7", "GN=a", "PE=1"),
    taxon=words("n=4", "Tax=x", "TaxID=3"),
    taxid=st.none() | number,
    gene=st.none() | words("n=4", "TaxID=3"),
    evidence=st.none() | st.integers(1, 5),
    version=st.none() | st.integers(1, 300),
)
def test_uniprotkb_round_trip(
    name: str, taxon: str, taxid: int | None, gene: str | None, evidence: int | None, version: int | None
) -> None:
    fields = {"OS": taxon, "OX": taxid, "GN": gene, "PE": evidence, "SV": version}
    description = " ".join([name, *(f"{key}={value}" for key, value in fields.items() if value is not None)])
    assert parse_description(description) == Header(name, None, taxon, taxid, None)


pieces = st.sampled_from(
    [
        " n=",
        " Tax=",
        " TaxID=",
        " RepID=",
        " OS=",
        " OX=",
        " GN=",
        "n=",
        "1",
        "12",
        "9606",
        "4294967296",
        "x",
        "é",
        " ",
        "",
    ]
)
short = st.text("ab 1=", max_size=3)


def perhaps(key: str) -> st.SearchStrategy[str]:
    """A field, or none."""
    return st.just("") | short.map(key.__add__)


uniref = st.tuples(short, perhaps(" n="), perhaps(" Tax="), perhaps(" TaxID="), st.just(" RepID=R")).map("".join)


# Of the profile "thorough" 10,000.
@settings(max_examples=max(600, settings.default.max_examples))
@given(st.lists(st.one_of(st.lists(pieces, max_size=12).map("".join), uniref), max_size=8))
@pytest.mark.slow
def test_descriptions_parsed_together_are_as_parsed_alone(texts: list[str]) -> None:
    table = parse_descriptions(pa.array([text.strip() for text in texts], pa.string()))
    assert table.schema == FIELDS
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        tuple(parse_description(text.strip())) for text in texts
    ]


@pytest.mark.parametrize(
    "description",
    [
        "x n=" + "9" * 5000 + " Tax=a RepID=b",
        "x OS=" + " " * 10_000 + "y",
        "x OS=" + " GN=" * 5000 + "y",
        "x n=1 Tax=" + " TaxID=1" * 5000 + " RepID=x y",
        "x" + " n=1" * 5000 + " RepID=",
        "x" + " n=1 Tax= TaxID=1" * 3000 + " RepID=x y",
        " n=1 Tax=" * 5000 + " RepID=x y",
        "x" + " n=1" * 5000 + " RepID=x",
        "x" + " RepID=x" * 5000,
    ],
)
def test_long_headers_cost_little_time(description: str) -> None:
    start = time.process_time()
    assert parse_description(description).taxid is None
    assert time.process_time() - start < 0.5
