"""A warning where labels look like several in one, joined by something that is not the separator."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.label_tables import LabelSource

log = logging.getLogger(__name__)

# What people join labels by, and the expression that splits them. Blanks are in many a label: there codes alone count.
JOINERS = {",": r"\s*,\s*", ";": r"\s*;\s*", "|": r"\s*\|\s*", "/": r"\s*/\s*", " ": r"\s+"}
# GO:0005524, 1.10.150.-, IPR000719, K01234: no words, and no numbers as in 2,3-dihydroxybenzoate.
CODE = r"^(?:[A-Za-z][\w.-]*:\w[\w.-]*|\d+(?:\.[\dn-]+){1,3}|[A-Za-z]{1,6}_?\d{2,}[\w.]*)$"
SHOWN_CHARACTERS = 80


def warn_of_joined(source: LabelSource, names: pa.StringArray) -> None:
    """Warn where labels look like several in one, joined by something that is not the separator."""
    for separator, pattern in JOINERS.items():
        if separator != source.separator and len(found := find_joined(names, pattern, separator == " ")):
            log.warning(
                "%s: %s of %s labels look like several joined by %r, for example %r; if they are, name what separates "
                "labels (--separator, annotate.separator), or make lists of them, an item each",
                source.path,
                f"{len(found):,}",
                f"{len(names):,}",
                separator,
                found[0].as_py()[:SHOWN_CHARACTERS],
            )


def find_joined(names: pa.StringArray, pattern: str, codes_only: bool) -> pa.StringArray:
    """Return the labels whose parts all look like labels: they have the form of a code, or occur elsewhere, too."""
    several = names.filter(pc.match_substring_regex(names, pattern))
    pieces = pc.split_pattern_regex(several, pattern)
    # Without the brackets and quotes of lists in other languages.
    label, parts = pc.list_parent_indices(pieces).to_numpy(), pc.utf8_trim(pieces.flatten(), "[](){}'\"")
    is_label = pc.match_substring_regex(parts, CODE)
    if not codes_only:
        counts = pc.value_counts(parts)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        known = pa.concat_arrays([names, repeated])
        is_label = pc.or_(is_label, pc.is_in(parts, value_set=known))
    odd = np.bincount(label[~is_label.to_numpy(zero_copy_only=False)], minlength=len(several))
    return several.filter(pa.array(odd == 0))
