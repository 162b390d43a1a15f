"""Rows for duplicates: ids whose sequence was embedded under another, canonical id."""

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.terms import DUPLICATE
from embedome.dataset.format import SKIPPED

# Columns of the catalog that a duplicate's row is made from.
CATALOG_COLUMNS = ["id", "digest", "length", "taxid", "n_members", "duplicate_of"]


def duplicate_rows(duplicates: pa.Table, canonical: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Make rows for duplicates, with the vectors of their canonical ids.

    Parameters
    ----------
    duplicates : pyarrow.Table
        `CATALOG_COLUMNS` of the duplicates.
    canonical : pyarrow.Table
        Embedding rows, among them those of the canonical ids, as far as these were embedded.

    Returns
    -------
    rows : pyarrow.Table
        Embedding rows of state ``duplicate``, in the order of `duplicates`.
    lost : pyarrow.Table
        The `duplicates` whose canonical id has no row.
    """
    position = pc.index_in(duplicates["duplicate_of"], value_set=canonical["id"])
    source = canonical.take(pc.drop_null(position))
    mine = duplicates.filter(pc.is_valid(position))
    columns = {name: (mine if name in mine.column_names else source)[name] for name in canonical.column_names}
    columns["state"] = pa.array([DUPLICATE] * len(mine), pa.string())
    return pa.table(columns).cast(canonical.schema), duplicates.filter(pc.is_null(position))


def skipped_duplicates(lost: pa.Table, skipped: pa.Table) -> pa.Table:
    """Make skipped rows for duplicates whose canonical sequence was skipped, with its reason.

    Parameters
    ----------
    lost : pyarrow.Table
        As `duplicate_rows` returns it.
    skipped : pyarrow.Table
        Skipped sequences: columns ``id`` and ``reason`` at least.

    Raises
    ------
    UserError
        Where a canonical sequence was neither embedded nor skipped.
    """
    position = pc.index_in(lost["duplicate_of"], value_set=skipped["id"])
    if position.null_count:
        name = lost.filter(pc.is_null(position))["duplicate_of"][0].as_py()
        raise UserError(f"{name!r}, of which there are duplicates, was neither embedded nor skipped; run embed again")
    reasons = skipped["reason"].take(position)
    return lost.select(["id", "digest", "length"]).append_column("reason", reasons).cast(SKIPPED)
