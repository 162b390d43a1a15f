"""The reference set: the annotated proteins of a data set, whose labels are carried over to their neighbours."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, read_json
from embedome.common.settings import SectionSettings
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import MANIFEST
from embedome.dataset.to_faiss import EXACT_UP_TO, load_faiss
from embedome.parquet.reader import ParquetFile

if TYPE_CHECKING:
    import faiss

# Whoever changes the numbers or the files of an annotation raises this.
ANNOTATION_FORMAT = 3
EUCLIDEAN, COSINE = "euclidean", "cosine"
# What `to_faiss.build_index` calls them.
INDEX_METRICS = {EUCLIDEAN: "l2", COSINE: "cosine"}
LOOKUP, ROWS, NAMES, HELD_OUT = "lookup.json", "rows.parquet", "labels.parquet", "held_out.parquet"
VECTORS, INDEX = "vectors.npy", "index.faiss"


@dataclass(frozen=True, slots=True)
class AnnotateSettings(SectionSettings):
    """How labels are carried over.

    Parameters
    ----------
    neighbours : int
        k, the nearest annotated proteins taken; all at the distance of the k-th, where several are.
    metric : str
        ``euclidean`` or ``cosine``.
    hold_out : sequence of str
        Splits whose labels are not used, so that they can be compared with what is carried over.
    skip_identical : bool
        Leave out annotated proteins with the query's own sequence; the query itself always is.
    max_identity : float, optional
        Leave out those with a larger sequence identity to the query, see `sequence_identity.sequence_identity`.
    min_reliability : float
        Labels of a smaller reliability are not written.
    exact_up_to : int
        Reference sets of more proteins are searched in an inverted file, which misses some neighbours.
    pooling : str, optional
        Name of the vectors, of `Dataset.poolings`; the first where none is named.
    """

    neighbours: int = 5
    metric: str = EUCLIDEAN
    hold_out: Sequence[str] = ()
    skip_identical: bool = False
    max_identity: float | None = None
    min_reliability: float = 0.0
    exact_up_to: int = EXACT_UP_TO
    pooling: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON, in one form however numbers were typed."""
        limit = None if self.max_identity is None else float(self.max_identity)
        least = float(self.min_reliability)
        return asdict(self) | {"hold_out": list(self.hold_out), "max_identity": limit, "min_reliability": least}


class ReferenceSet:
    """An opened reference set.

    Attributes
    ----------
    about : dict
        ``lookup.json``.
    ids, digests : pyarrow.StringArray, length n
        Sorted by id.
    offsets, codes : numpy.ndarray
        The labels of row i are ``codes[offsets[i]:offsets[i + 1]]``, positions in `names`.
    names : pyarrow.StringArray
    n_lookup : numpy.ndarray, dtype=int64
        How many rows carry each label.
    namespaces : pyarrow.StringArray
        Of each label, by the ontology; null where there is none.
    is_root : numpy.ndarray, dtype=bool
        Which labels the ontology has without parents.
    sequences : pyarrow.LargeStringArray
        Null where no identity is asked for.
    vectors : numpy.ndarray, dtype=float16, shape=(n, D)
        On disk.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.about = read_json(self.folder / LOOKUP)
        if self.about.get("format") != ANNOTATION_FORMAT:
            raise UserError(f"{folder}: a reference set of another format; delete it and run again")
        rows = read_whole(self.folder / ROWS)
        self.ids, self.digests, self.sequences = rows["id"], rows["digest"], rows["sequence"]
        self.offsets, self.codes = rows["labels"].offsets.to_numpy(), rows["labels"].flatten().to_numpy()
        names = read_whole(self.folder / NAMES)
        self.names, self.n_lookup = names["label"], names["n_lookup"].to_numpy()
        self.namespaces = names["namespace"]
        self.is_root = names["is_root"].to_numpy(zero_copy_only=False)
        self.vectors = np.load(self.folder / VECTORS, mmap_mode="r")

    @property
    def settings(self) -> AnnotateSettings:
        """The settings it was built with."""
        return AnnotateSettings(**self.about["settings"])

    def held_out(self) -> dict[str, pa.Array]:
        """Read ids and labels of the held-out splits, sorted by id."""
        return read_whole(self.folder / HELD_OUT)

    def index(self) -> "faiss.Index":
        """Load the index."""
        return load_faiss().read_index(str(self.folder / INDEX))


def read_whole(path: Path) -> dict[str, pa.Array]:
    """Read the columns of a file, each in one piece."""
    table = ParquetFile(path).read(use_threads=False)
    return {name: table[name].combine_chunks() for name in table.column_names}


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return all integers of the ranges [start, end), one range after the other."""
    lengths = ends - starts
    skips = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum()) + skips


def check_catalog(settings: AnnotateSettings, catalog: object) -> None:
    """Refuse to compare sequences where no catalog has them."""
    if settings.max_identity is not None and catalog is None:
        raise UserError(
            "a largest identity needs the sequences; name the catalog of the run, results/catalog, or the FASTA files"
        )


def check_reference(dataset: str | os.PathLike, data: Dataset, reference: ReferenceSet) -> None:
    """Refuse the reference set of another data set."""
    if reference.about["dataset"] != dataset_identity(dataset, data):
        raise UserError(f"{reference.folder}: made from another data set than {dataset}; delete it and run again")


def dataset_identity(path: str | os.PathLike, data: Dataset) -> dict[str, Any]:
    """Return what identifies a data set: the digest of its manifest, or of its one file, rows and model."""
    file = Path(path) if Path(path).is_file() else data.folder / MANIFEST
    model = data.manifest["provenance"]["model"]
    return {"sha256": file_sha256(file), "rows": len(data), "model": model}
