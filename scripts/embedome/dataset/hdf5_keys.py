"""Keys of proteins in HDF5 files: none twice, none that HDF5 takes for a folder."""

from collections.abc import Callable, Iterable
from itertools import count

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.dataset.dataset import Dataset
from embedome.sequences.accessions import UNIPROTKB, find_accession

ACCESSION, ID, NUMBER = "accession", "id", "number"
KINDS = (ACCESSION, ID, NUMBER)
# Of the ids of one key that are named in a message.
NAMED = 3


def key_maker(kind: str) -> Callable[[str], str]:
    """Return what makes the key of an id, called for one id after the other.

    Parameters
    ----------
    kind : str
        ``accession``: that of an id of UniProtKB (``sp|P12345|NAME``), of any other the id. ``id``: the id. ``number``:
        how many keys there are before.
    """
    if kind == NUMBER:
        numbers = count()
        return lambda name: str(next(numbers))
    return make_key if kind == ACCESSION else clean_key


def make_key(name: str) -> str:
    """Return the key by the accession, as the files of UniProt have it.

    Examples
    --------
    >>> make_key("sp|P12345|AATM_RABIT"), make_key("UniRef50_P12345"), make_key("P12345/1-99")
    ('P12345', 'UniRef50_P12345', 'P12345_1-99')
    """
    accession = find_accession(name) if name.startswith(UNIPROTKB) else None
    return clean_key(accession or name)


def clean_key(name: str) -> str:
    """Return a name without what HDF5 takes for folders: ``_`` for slashes, and for a dot alone."""
    name = name.replace("/", "_")
    return "_" if name == "." else name


def check_keys(data: Dataset, kind: str, split: str | None) -> None:
    """Check that no two proteins have one key. Memory: the keys.

    Raises
    ------
    UserError
        Names the ids of one, and says what to do.
    """
    if kind not in KINDS:
        raise UserError(f"no key {kind!r}; expected one of {', '.join(KINDS)}")
    if kind == NUMBER:
        return
    counts = pc.value_counts(pa.chunked_array(list(iter_keys(data, kind, split)) or [pa.array([], pa.string())]))
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return
    key, make = repeated[0].as_py(), key_maker(kind)
    tables = data.tables(["id"], split)
    ids = [name for table in tables for name in table["id"].to_pylist() if make(name) == key]
    shown = ", ".join(map(repr, ids[:NAMED])) + (", …" if len(ids) > NAMED else "")
    others = f"--key {ID} or --key {NUMBER}" if kind == ACCESSION else f"--key {NUMBER}"
    raise UserError(
        f"{data.name}: {len(ids)} ids have one key, {key!r}: {shown}; {len(repeated):,} keys are such. Choose {others}"
    )


def iter_keys(data: Dataset, kind: str, split: str | None) -> Iterable[pa.Array]:
    """Yield the keys of all ids, table by table."""
    make = key_maker(kind)
    for table in data.tables(["id"], split):
        yield pa.array(map(make, table["id"].to_pylist()), pa.string())
