"""Which differences between two provenances matter."""

from collections.abc import Iterable, Mapping
from typing import Any

from embedome.common.errors import UserError

# Keys of the provenance that are no reason to embed again.
DEVIATION = "int8_deviation"
MEASURED = (DEVIATION,)


def lasting(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance without what was measured on the way, which differs a little from machine to machine."""
    return {key: value for key, value in provenance.items() if key not in MEASURED}


def worst_deviation(provenances: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the worst `DEVIATION` of several, as a key of provenance; no key where none has it."""
    found = [each[DEVIATION] for each in provenances if DEVIATION in each]
    if not found:
        return {}
    cosine, difference = min(each["min_cosine"] for each in found), max(each["max_abs"] for each in found)
    return {DEVIATION: {"min_cosine": cosine, "max_abs": difference}}


# Of a provenance, what may differ between vectors in one data set.
OF_THE_RUN = ("embedome", "source")


def check_same_vectors(earlier: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Check that the vectors of an earlier data set are made as those of this run are.

    Raises
    ------
    UserError
        Names what differs.
    """
    names = sorted({*lasting(earlier), *lasting(provenance)} - set(OF_THE_RUN))
    if differing := [name for name in names if earlier.get(name) != provenance.get(name)]:
        raise UserError(
            f"the data set of reuse.dataset was made with another {', '.join(differing)}; its vectors cannot be mixed "
            "with new ones. Set reuse.dataset to null to embed all sequences"
        )
    if provenance["per_residue"]:
        raise UserError("embed.per_residue is true; per-residue embeddings cannot be reused. Set reuse.dataset to null")
