"""Accessions in ids of UniProtKB and UniRef, one by one and by array operations."""

import pyarrow as pa
import pytest
from embedome.sequences.accessions import find_accession, find_accessions, list_beginnings
from hypothesis import given
from hypothesis import strategies as st

FORMS = {
    "sp|P12345|AATM_RABIT": "P12345",
    "tr|A0A024R161|A0A024R161_HUMAN": "A0A024R161",
    "sp|P12345-2|AATM_RABIT": "P12345-2",
    "UniRef100_P12345": "P12345",
    "UniRef90_P12345-3": "P12345-3",
    "UniRef50_UPI0000000001": "UPI0000000001",
    "P12345": None,
    "sp|P12345": None,
    "sp||NAME": None,
    "xx|P12345|NAME": None,
    "gi|1|sp|P12345|NAME": None,
    "UniRef70_P12345": None,
    "UniRef50_": None,
    "UniParc_P12345": None,
    "": None,
}
TEXTS = st.one_of(st.text(), st.from_regex(r"(sp|tr)\|\w*\|\w*|UniRef(100|90|50)_\w*", fullmatch=True))


@pytest.mark.parametrize(("name", "accession"), FORMS.items())
def test_the_accession_of_each_form(name, accession):
    assert find_accession(name) == accession


@given(st.lists(st.one_of(st.none(), TEXTS.filter(lambda text: text.isprintable()))))
def test_of_a_column_they_are_those_of_each(names):
    expected = [None if name is None else find_accession(name) for name in names]
    assert find_accessions(pa.array(names, pa.string())).to_pylist() == expected


@given(TEXTS)
def test_an_id_begins_in_one_of_the_ways_that_are_looked_for(name):
    accession = find_accession(name)
    assert accession is None or sum(name.startswith(start) for start in list_beginnings(accession)) == 1
