"""Pairwise sequence identity, by Biopython's aligner."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from Bio.Align import PairwiseAligner

OPEN_GAP, EXTEND_GAP = -11, -1
# Letters that BLOSUM62 lacks, each as the residue it stands in for: selenocysteine, pyrrolysine, leucine or isoleucine.
STAND_INS = str.maketrans("UOJ", "CKL")
# Time and memory of an alignment grow with the product of the lengths: 10,000 by 10,000 take some 200 MB.
COMPARED_RESIDUES = 10_000


def make_aligner() -> "PairwiseAligner":
    """Make an aligner: global, BLOSUM62, gaps -11 and -1, gaps at the ends free."""
    from Bio.Align import PairwiseAligner, substitution_matrices

    aligner = PairwiseAligner(
        mode="global",
        substitution_matrix=substitution_matrices.load("BLOSUM62"),
        open_gap_score=OPEN_GAP,
        extend_gap_score=EXTEND_GAP,
    )
    aligner.end_gap_score = 0
    return aligner


def sequence_identity(aligner: "PairwiseAligner", one: str, other: str) -> float:
    """Return the identical residues in the best alignment, over the length of the shorter sequence: 0 to 1.

    Over the shorter one, as CD-HIT defines it, so that a fragment of a protein is wholly identical to it. Of equally
    good alignments it is the one that Biopython returns first. Of longer sequences the first 10,000 residues count.

    References
    ----------
    Li & Godzik 2006, Bioinformatics 22:1658, doi:10.1093/bioinformatics/btl158
    """
    one, other = (text[:COMPARED_RESIDUES].translate(STAND_INS) for text in (one, other))
    return aligner.align(one, other)[0].counts().identities / min(len(one), len(other))
