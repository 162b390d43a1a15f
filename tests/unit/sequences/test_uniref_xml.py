"""UniRef XML through the filter: the catalog that FASTA makes, all members, bounded memory, and no entity expanded."""

import gzip
import hashlib
import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import duckdb
import pytest
from backports import zstd
from embedome.common.errors import UserError
from embedome.sequences import uniref_xml
from embedome.sequences.headers import Header, parse_description
from embedome.sequences.records import printable, read_records
from helpers.filtered import run_filter, small_groups, tree, write_fasta
from helpers.paths import SHARED_DATA
from helpers.uniref_documents import HEAD, MEMBER_COLUMNS, Cluster, Member, document, one
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

XML = SHARED_DATA / "uniref" / "xml"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
COLUMNS = "id, digest, length, n_members, taxid, taxon, name, representative, description, record, duplicate_of"


def filter_xml(folder: Path, data: bytes, **limits: object):
    path = folder / "input"
    path.write_bytes(data)
    return run_filter(folder / "out", path, **limits)


def complaint(folder: Path, data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        filter_xml(folder, data)
    assert not (folder / "out" / "catalog").exists()
    assert "\n" not in str(caught.value)
    assert str(folder / "input") in str(caught.value)
    return str(caught.value)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch):
    """Cut everything small, so that few entries cross all boundaries."""

    def shrink(block: int = 97, chunk: int = 300, piece: int = 700, run: int = 1000) -> None:
        monkeypatch.setattr("embedome.sequences.compressed.BLOCK_BYTES", block)
        monkeypatch.setattr("embedome.catalog.filter.CHUNK_BYTES", chunk)
        monkeypatch.setattr("embedome.sequences.uniref_xml.PIECE_BYTES", piece)
        monkeypatch.setattr("embedome.catalog.filter.RUN_BYTES", run)

    return shrink


# XML and FASTA


characters = st.characters(min_codepoint=33, max_codepoint=0x2FF, categories=("L", "N", "P", "S"))
names = st.text(characters, min_size=1, max_size=9)
words = st.lists(names, min_size=1, max_size=4).map(" ".join)
tokens = st.text("ABCXYZ0123456789_-", min_size=1, max_size=9)
members = st.builds(
    Member,
    id=tokens,
    accessions=st.lists(tokens, max_size=3).map(tuple),
    uniparc=st.none() | tokens,
    uniref90=st.none() | tokens,
    taxid=st.none() | st.integers(1, 2**31 - 1),
    length=st.none() | st.integers(1, 45_000),
    seed=st.booleans(),
)
clusters = st.lists(
    st.builds(
        Cluster,
        id=tokens.map("UniRef50_".__add__),
        name=words,
        taxon=words,
        taxid=st.integers(1, 2**31 - 1),
        sequence=st.text(AMINO_ACIDS, min_size=1, max_size=200),
        members=st.lists(members, min_size=1, max_size=7).map(tuple),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda cluster: cluster.id,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=clusters,
    encoding=st.sampled_from(["ISO-8859-1", "UTF-8", "us-ascii"]),
    form=st.sampled_from(["plain", "gzip", "zstd", "prefixed", "one line", "crlf", "comments"]),
    sizes=st.tuples(*(st.integers(low, 3000) for low in (1, 50, 200, 50))),
)
@pytest.mark.slow
def test_catalog_is_that_of_the_fasta_and_members_are_all_there(
    tmp_path_factory, small_pieces, found, encoding, form, sizes
):
    small_pieces(*sizes)
    folder = tmp_path_factory.mktemp("xml")
    data = document(*(cluster.xml() for cluster in found), encoding=encoding)
    if form == "prefixed":
        data = re.sub(rb"<(/?)(?=[a-zA-Z])", rb"<\1u:", data).replace(b"xmlns=", b"xmlns:u=")
    if form == "one line":
        data = data.replace(b"\n", b" ").replace(b"?> <", b"?><")
    if form == "crlf":
        data = data.replace(b"\n", b"\r\n")
    if form == "comments":
        data = data.replace(b"<entry ", b"<!-- a > b --><?x y?><entry ").replace(b"</entry>", b"<new a='1'/></entry>")
    pack = {"gzip": gzip.compress, "zstd": zstd.compress}.get(form, bytes)
    packed = pack(data)  # once: gzip notes the time
    run = filter_xml(folder, packed, min_length=1)
    assert run.account["inputs"][0]["sha256"] == hashlib.sha256(packed).hexdigest()
    fasta = write_fasta(folder / "x.fasta", [each.fasta() for each in found])
    other = run_filter(folder / "fasta", fasta, min_length=1)
    assert run.rows(COLUMNS) == other.rows(COLUMNS)
    assert run.rows("sequence") == other.rows("sequence")
    ordered = sorted(found, key=lambda cluster: cluster.id.encode())
    rows = [member.row(each.id, k == 0) for each in ordered for k, member in enumerate(each.members)]
    assert run.member_rows(MEMBER_COLUMNS) == rows
    assert run.account["members"] == {"read": len(rows), "kept": len(rows), "rejected": 0, "clusters_that_differ": 0}


def test_fasta_gives_a_file_of_no_members(tmp_path, three_proteins):
    run = run_filter(tmp_path / "out", three_proteins)
    assert run.member_rows() == []
    assert run.account["members"] == {"read": 0, "kept": 0, "rejected": 0, "clusters_that_differ": 0}


PARTS = [" n=3 Tax=x", " n= Tax=", " n=3", "n=3", " Tax=x", " TaxID=4", " RepID=y", " OS=z", "Cluster:", "=", " ", "  "]
odd_text = st.lists(st.sampled_from([*PARTS, "\u3000", "\u200b", "\t", "é", "蛋"]) | names, max_size=6).map("".join)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Header,
            name=odd_text,
            n_members=st.none() | st.integers(1, 2**31 - 1),
            taxon=st.none() | odd_text,
            taxid=st.none() | st.integers(1, 2**31 - 1),
        ),
        min_size=1,
        max_size=10,
    )
)
@example([Header("a", 7, "b n=3 Tax=c", 9), Header("a", 7, "b n=3", 9), Header("a n=3 Tax=b"), Header("", 7)])
def test_catalog_holds_what_is_found_in_the_headers_of_its_shards(tmp_path_factory, given):
    folder = tmp_path_factory.mktemp("fields")
    ids = [f"UniRef50_{number:02}" for number in range(len(given))]
    entries = [with_fields(one(name).xml(), header) for name, header in zip(ids, given, strict=True)]
    run = filter_xml(folder, document(*entries, encoding="UTF-8"), min_length=1)
    found = [Header(*row) for row in run.rows("name, n_members, taxon, taxid, representative")]
    titles = [f"{name} {description}" for name, description in run.rows("id, description")]
    shard = write_fasta(folder / "shard.fasta", [(title, "MKV") for title in titles])
    assert [parse_description(record.description) for record in read_records([shard])] == found
    for name, header, row in zip(ids, given, found, strict=True):
        taxon = printable(header.taxon or "").strip()
        # Such a taxon looks like fields.
        if not re.search(r" n=\d* Tax=", taxon):
            assert row == Header(
                printable(header.name).strip(), header.n_members, taxon or None, header.taxid, f"{name}_0"
            )


def with_fields(text: str, header: Header) -> str:
    """An entry of `one` with other fields; those that are None are left out."""
    values = {"member count": header.n_members, "common taxon": header.taxon, "common taxon ID": header.taxid}
    lines = [f'<property type="{key}" value={quoteattr(str(value))}/>' for key, value in values.items()]
    known = [line for line, value in zip(lines, values.values(), strict=True) if value is not None]
    text = re.sub(r'<property type="(member count|common taxon|common taxon ID)" .*\n', "", text)
    name = f"<name>Cluster: {escape(header.name)}</name>"
    return re.sub("<name>.*</name>", lambda _: "\n".join([name, *known]), text)


def test_headers_of_the_xml_cannot_be_mistaken(tmp_path):
    cluster = one(name="Ras n=3 Tax=x TaxID=1 RepID=y", taxon="Homo RepID=z", taxid=9606)
    assert filter_xml(tmp_path, document(cluster.xml()), min_length=1).rows("name, n_members, taxon, taxid") == [
        ("Ras n=3 Tax=x TaxID=1 RepID=y", 2, "Homo RepID=z", 9606)
    ]


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ('<property type="common taxon" value="Homo"/>', "", (2, None, 9605, "Some protein")),
        ('<property type="common taxon ID" value="9605"/>', "", (2, "Homo", None, "Some protein")),
        ('<property type="member count" value="2"/>', "", (None, "Homo", 9605, "Some protein")),
        ("<name>Cluster: Some protein</name>", "", (2, "Homo", 9605, "")),
        ("Cluster: Some protein", "\n Cluster:  A\t&amp; <![CDATA[<b>]]>&#10;x\n", (2, "Homo", 9605, "A & <b> x")),
        ('"member count" value="2"', '"member count" value="99999999999"', (None, "Homo", 9605, "Some protein")),
    ],
)
def test_fields_that_are_missing_or_odd(tmp_path, old, new, row):
    text = one().xml()
    assert old in text
    run = filter_xml(tmp_path, document(text.replace(old, new)), min_length=1)
    assert run.rows("n_members, taxon, taxid, name") == [row]


def test_rejects_are_those_of_the_fasta_and_take_their_members_along(tmp_path, small_pieces):
    small_pieces()
    found = [
        one("UniRef50_A", "MKVLA", 3),
        one("UniRef50_B", "M", 2),
        one("UniRef50_C", "MKVLA-MKV", 4),
        one("UniRef50_D", "", 2),
        one("UniRef50_F", "MKVLA", 1),
        one("UniRef50_G", "MKVLA", 2, name="Some (Fragment)"),
        one("", "MKVLA", 2),
        one("UniRef50_H", "mkvla*", 5),
    ]
    limits = {"min_length": 2, "min_members": 2, "fragments": False}
    run = filter_xml(tmp_path, document(*(each.xml() for each in found)), **limits)
    assert run.rejected("id, reason") == [
        ("", "no-id"),
        ("UniRef50_B", "too-short"),
        ("UniRef50_C", "invalid-residue"),
        ("UniRef50_D", "empty-sequence"),
        ("UniRef50_F", "few-members"),
        ("UniRef50_G", "fragment"),
    ]
    assert run.rows("id, sequence, duplicate_of") == [
        ("UniRef50_A", "MKVLA", None),
        ("UniRef50_H", "MKVLA", "UniRef50_A"),
    ]
    assert run.account["members"] == {"read": 21, "kept": 8, "rejected": 13, "clusters_that_differ": 0}
    assert [row[0] for row in run.member_rows("id")] == ["UniRef50_A"] * 3 + ["UniRef50_H"] * 5


@pytest.mark.parametrize(("length", "says"), [("4", "4"), ("", "nothing")])
def test_sequence_of_another_length_than_its_entry_says_is_rejected(tmp_path, length, says):
    wrong = one().xml().replace('<sequence length="3"', f'<sequence length="{length}"')
    run = filter_xml(tmp_path, document(wrong, one("UniRef50_B").xml()), min_length=1)
    assert run.rejected("id, reason, detail") == [("UniRef50_A", "wrong-length", f"3 residues; its entry says {says}")]
    assert run.rows("id") == [("UniRef50_B",)]


def test_clusters_with_another_number_of_members_than_they_say_are_counted_and_kept(tmp_path, caplog):
    texts = [one(f"UniRef50_{name}", members=3).xml() for name in "ABC"]
    texts[1] = texts[1].replace('"member count" value="3"', '"member count" value="4"')
    run = filter_xml(tmp_path, document(*texts), min_length=1)
    assert run.account["members"]["clusters_that_differ"] == 1
    assert "UniRef50_B holds another number of members than it says" in caplog.text
    differ = f"""SELECT id FROM '{run.members}' JOIN '{run.catalog}/*.parquet' USING (id)
        GROUP BY id, n_members HAVING count(*) <> n_members"""
    assert duckdb.sql(differ).fetchall() == [("UniRef50_B",)]


def test_xml_and_fasta_in_one_run_and_one_id_in_both(tmp_path, three_proteins):
    path = tmp_path / "input"
    path.write_bytes(document(one().xml(), one("UniRef50_Z").xml()))
    run = run_filter(tmp_path / "out", three_proteins, path, min_length=1)
    assert run.rows("id, record")[:2] == [("UniRef50_A", 3), ("UniRef50_P0CG47", 2)]
    assert run.account["members"]["kept"] == 4
    path.write_bytes(document(one("UniRef50_P0CG47").xml()))
    with pytest.raises(UserError, match=r"two records have the id 'UniRef50_P0CG47'"):
        run_filter(tmp_path / "out", three_proteins, path, min_length=1)


def test_an_entry_that_is_there_again_is_an_exact_repeat_and_so_are_its_members(tmp_path, small_pieces, caplog):
    small_pieces()
    found = [one("UniRef50_A", "MKVLA", 3), one("UniRef50_B", "MKV", 2), one("UniRef50_A", "MKVLA", 4)]
    two = tmp_path / "two"
    two.write_bytes(document(one("UniRef50_B", "MKV", 5).xml(), one("UniRef50_C", "MKA", 1).xml()))
    one_file = tmp_path / "one"
    one_file.write_bytes(document(*(each.xml() for each in found)))
    run = run_filter(tmp_path / "out", one_file, two, min_length=1)
    assert run.rows("id, n_members, record") == [("UniRef50_A", 3, 0), ("UniRef50_B", 2, 1), ("UniRef50_C", 1, 4)]
    assert run.account["rejected"] == {"exact-repeat": 2}
    assert run.account["members"] == {"read": 15, "kept": 6, "rejected": 9, "clusters_that_differ": 0}
    assert [row[0][-1] for row in run.member_rows("id")] == list("AAABBC")
    assert "another number of members" not in caplog.text


def test_of_an_entry_that_is_rejected_and_its_repeat_the_members_of_the_other_are_kept(tmp_path, small_pieces):
    small_pieces()
    found = [one("UniRef50_A", "MKVLA", 2, name="Some (Fragment)"), one("UniRef50_A", "MKVLA", 3)]
    run = filter_xml(tmp_path, document(*(each.xml() for each in found)), min_length=1, fragments=False)
    assert run.account["rejected"] == {"fragment": 1}
    assert run.account["members"] == {"read": 5, "kept": 3, "rejected": 2, "clusters_that_differ": 0}


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path, small_pieces, monkeypatch):
    small_groups(monkeypatch)
    monkeypatch.setattr("embedome.catalog.members.MEMBERS_GROUP_ROWS", 50)
    path = tmp_path / "input"
    found = [one(f"UniRef50_{(k * 7919) % 1000:03}", AMINO_ACIDS[: 1 + k % 20], 1 + k % 9) for k in range(300)]
    path.write_bytes(document(*(each.xml() for each in found)))
    small_pieces(block=1000, chunk=4000, piece=5000, run=20_000)
    first = run_filter(tmp_path / "one", path, workers=1, min_length=1)
    second = run_filter(tmp_path / "two", path, workers=2, min_length=1)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert first.member_rows() == second.member_rows()
    monkeypatch.undo()
    assert run_filter(tmp_path / "three", path, min_length=1).member_rows() == first.member_rows()


# Clusters of any size


def test_cluster_that_is_longer_than_a_piece(tmp_path, small_pieces):
    small_pieces(block=1 << 12, chunk=1 << 13, piece=1 << 14, run=1 << 15)
    found = [one("UniRef50_C", members=3), one("UniRef50_B", members=5000), one("UniRef50_A", members=5)]
    path = tmp_path / "input"
    path.write_bytes(document(*(each.xml() for each in found)))
    run = run_filter(tmp_path / "out", path, min_length=1)
    assert run.rows("id, n_members, record") == [("UniRef50_A", 5, 2), ("UniRef50_B", 5000, 1), ("UniRef50_C", 3, 0)]
    rows = [member.row(each.id, k == 0) for each in reversed(found[1:]) for k, member in enumerate(each.members)]
    assert run.member_rows(MEMBER_COLUMNS)[: len(rows)] == rows
    assert run.account["members"] == {"read": 5008, "kept": 5008, "rejected": 0, "clusters_that_differ": 0}


@pytest.mark.parametrize("size", [1, 5, 100])
def test_pieces_are_small_whatever_the_entry(size):
    data = document(one(members=400 * size).xml())
    blocks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    uniref_xml.PIECE_BYTES, kept = 1 << 15, uniref_xml.PIECE_BYTES
    try:
        chunks = list(uniref_xml.read_xml_chunks("x", blocks, 1 << 14))
    finally:
        uniref_xml.PIECE_BYTES = kept
    assert max(len(chunk.data) for chunk in chunks) < (1 << 15) + 2 * 4096
    assert sum(chunk.n_entries for chunk in chunks) == 1


def test_text_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("embedome.sequences.uniref_xml.MAX_ENTRY_BYTES", 1 << 20)
    monkeypatch.setattr("embedome.sequences.uniref_xml.PIECE_BYTES", 1 << 19)
    data = document("<entry id='a'><name>" + "x" * (9 << 20) + "</name></entry>")
    assert "entry 1 has 1 MiB without the end of a member" in complaint(tmp_path, data)


# What is not to be read


def test_entities_are_not_expanded(tmp_path):
    laughs = '<!DOCTYPE UniRef50 [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    text = document(one(name="x").xml()).decode().replace("?>", "?>" + laughs, 1)
    assert "document type declares" in complaint(tmp_path, text.replace("Cluster: x", "&b;").encode())
    (tmp_path / "secret").write_text("secret")
    outside = f'<!DOCTYPE UniRef50 [<!ENTITY a SYSTEM "file://{tmp_path}/secret">]>'
    assert "document type declares" in complaint(tmp_path, text.replace(laughs, outside).encode())
    parameter = f'<!DOCTYPE UniRef50 [<!ENTITY % a SYSTEM "file://{tmp_path}/secret">%a;]>'
    assert "document type declares" in complaint(tmp_path, text.replace(laughs, parameter).encode())


def test_document_type_that_is_elsewhere_is_not_fetched(tmp_path, mirror):
    kind = f'<!DOCTYPE UniRef50 SYSTEM "{mirror.url}/uniref50.fasta.gz">'
    text = document(one().xml()).decode().replace("?>", "?>" + kind, 1)
    assert filter_xml(tmp_path, text.encode(), min_length=1).rows("id") == [("UniRef50_A",)]
    assert mirror.ranges == []
    (tmp_path / "other").mkdir()
    assert "entry 1: not well-formed XML (undefined entity)" in complaint(
        tmp_path / "other", text.replace("Some protein", "&what;").encode()
    )


TWO = document(one().xml(), one("UniRef50_B").xml())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TWO.replace(b"</UniRef50>", b""), "entry 3: not well-formed XML (no element found)"),
        (TWO[: TWO.index(b"UniRef50_B_1")], "entry 2: not well-formed XML (unclosed token)"),
        (TWO[: TWO.rindex(b"</member>")], "entry 2: not well-formed XML (no element found)"),
        (TWO.replace(b"</member>", b"</ember>", 1), "entry 1: not well-formed XML (mismatched tag)"),
        (TWO.replace(b"</entry>", b"", 1), "entry 2: not well-formed XML (mismatched tag)"),
        (TWO.replace(b"</entry>", b"</entry >", 1), "from entry 1 on, 2 entries are where 1 end"),
        (TWO.replace(b"</name>", b"</name><!-- </entry> -->", 1), "from entry 1 on, 2 entries are where 3 end"),
        (TWO.replace(b"Homo", b"Ho\x01mo", 1), "entry 1: not well-formed XML (not well-formed (invalid token))"),
        (TWO + TWO, "not well-formed XML"),
        (TWO.replace(b"<entry", b"<!DOCTYPE x []><entry", 1), "entry 1: not well-formed XML"),
        (TWO.replace(b'id="UniRef50_B"', b'id="UniRef50 B"'), "entry 2: its id 'UniRef50 B' holds white space"),
        (TWO.replace(b'id="UniRef50_B_1"', b""), "entry 2: a member has no dbReference with an id"),
        (TWO.replace(b'id="UniRef50_A_0"', b""), "entry 1: a member has no dbReference with an id"),
        (TWO.replace(b"MKV", b"M&gt;V"), "entry 1: its sequence holds a '>'"),
        (TWO.replace(b"MKV", b"MKV Internal Server Error"), "entry 1: line 2 of its sequence is no residues, b'MKV"),
        (TWO.replace(b"MKV", b"MKV\nError"), "entry 1: line 3 of its sequence is no residues, b'Error'"),
        (TWO.replace(b"</member>", b"</member>\nBad Gateway", 1), "entry 1: between its elements stands 'Bad Gateway'"),
        (TWO.replace(b"<member>", b"<member>\nBad Gateway", 1), "entry 1: between its elements stands 'Bad Gateway'"),
        (TWO.replace(b"</entry>", b"</entry>\nBad Gateway", 1), "from entry 1 on, 'Bad Gateway' stands between"),
        (TWO.replace(b"<entry", b"Bad Gateway<entry", 1), "from entry 1 on, 'Bad Gateway' stands between"),
        (TWO.replace(b"UniRef50_A_0", b"A 0"), "entry 1: the id 'A 0' of its representative holds white space"),
        (TWO.replace(b"representativeMember", b"member", 2), "entry 1: it has no representativeMember"),
        (b"<html><body>Sign in</body></html>", "the root element is 'html'; expected one of UniRef, UniRef50"),
        (b"<uniprot xmlns='http://uniprot.org/uniprot'></uniprot>", "the root element is 'uniprot'"),
        (b"<UniRef50/>", "the root element holds no entry"),
        (HEAD.format(root="UniRef50", encoding="UTF-8").encode() + b"</UniRef50>", "no record of 0 was kept"),
        (b"<", "no XML element begins in the first MiB"),
        (b"<!-- " + b"x" * (3 << 20) + b" --><UniRef50></UniRef50>", "no XML element begins in the first MiB"),
        (b"<1>", "(not well-formed (invalid token): line 1, column 1); expected FASTA or UniRef XML"),
        (TWO.replace(b"ISO-8859-1", b"KOI8-R"), "XML in 'KOI8-R'; expected one of UTF-8, ISO-8859-1, US-ASCII"),
        (TWO.decode().replace("ISO-8859-1", "UTF-16").encode("utf-16"), "the file begins with"),
        (gzip.compress(TWO, mtime=0)[:-20], "the compressed data end too early"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_something_else_is_named(tmp_path, data, message):
    assert message in complaint(tmp_path, data)


def local_name(element):
    return element.tag.rpartition("}")[2]


def test_an_entry_is_numbered_where_carriage_returns_end_lines(tmp_path):
    """The parser counts them as lines."""
    broken = TWO.replace(b"\n", b"\r").replace(b"<member>", b"<member", 1)
    assert "entry 1: not well-formed XML" in complaint(tmp_path, broken)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_ends_in_one_line_or_in_the_same_records(tmp_path_factory, small_pieces, data):
    small_pieces()
    wrong = bytearray(TWO)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(wrong) - 1))
        damage = data.draw(st.binary(max_size=5) | st.sampled_from([b"<", b">", b"</entry>", b'"']))
        wrong[place : place + data.draw(st.integers(0, 40))] = damage
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "input").write_bytes(bytes(wrong))
    try:
        run = run_filter(folder / "out", folder / "input", min_length=1)
    except UserError:
        return
    # What is still well-formed is read as an XML parser reads it; blanks before its declaration are passed over.
    root = ElementTree.fromstring(bytes(wrong).lstrip())
    # By local names, as embedome does: the damage may have struck the namespace.
    entries = [each for each in root if local_name(each) == "entry"]
    assert run.account["read"] == len(entries)
    seen = sum(local_name(each) in ("member", "representativeMember") for one in entries for each in one)
    assert run.account["members"]["read"] == seen


# Real files


@pytest.mark.skipif(not XML.exists(), reason="no UniRef XML in shared/data")
def test_real_files_have_all_they_say(tmp_path, small_pieces):
    small_pieces(block=1 << 14, chunk=1 << 15, piece=1 << 16, run=1 << 17)
    paths = sorted(XML.glob("*.xml*"))
    run = run_filter(tmp_path / "out", *paths, min_length=1)
    expected, sequences = [], []
    for path in paths:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as handle:
            root = ElementTree.parse(handle).getroot()
        space = root.tag[: root.tag.index("}") + 1]
        for each in root.iter(f"{space}entry"):
            count = next(p.get("value") for p in each.findall(f"{space}property") if p.get("type") == "member count")
            references = each.findall(f".//{space}dbReference")
            assert len(references) == int(count)
            sequences.append((each.get("id"), int(count), "".join(each.find(f".//{space}sequence").text.split())))
            for reference in references:
                accessions = [p.get("value") for p in reference if p.get("type") == "UniProtKB accession"]
                known = {p.get("type"): p.get("value") for p in reference}
                uniparc = known.get("UniParc ID") or reference.get("id")
                levels = [known.get(f"UniRef{level} ID") for level in (100, 90, 50)]
                taxid = int(known["NCBI taxonomy"]) if "NCBI taxonomy" in known else None
                expected.append((each.get("id"), reference.get("id"), accessions, uniparc, *levels, taxid))
    assert run.rows("id, n_members, sequence") == sorted(sequences)
    found = run.member_rows(
        "id, member, CASE WHEN accession IS NULL THEN [] ELSE list_prepend(accession, secondary_accessions) END,"
        "uniparc, uniref100, uniref90, uniref50, taxid"
    )
    assert found == sorted(expected, key=lambda row: row[0])
    assert run.account["members"] == {"read": 5515, "kept": 5515, "rejected": 0, "clusters_that_differ": 0}
