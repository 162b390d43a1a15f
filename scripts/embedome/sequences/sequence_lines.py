"""Lines that are no sequence: what a server or a program says where it breaks off in the middle of a FASTA file."""

import re
import string

# Beside letters, what real files have among residues: stops, gaps, unknown residues, frame shifts, DOS's end of file.
# A record with one of them is rejected; it is a sequence all the same.
SIGNS = b"*-.?~_+#!/\\\x1a"
# A body of nothing else needs no look at its lines. These three letters are in most words, and in next to no protein.
RARE = b"jou"
USUAL = bytes(set(string.ascii_letters.encode() + SIGNS + b"\r\n") - set(RARE))

LINE_ENDS = re.compile(rb"\r*\n|\r")
BLANKS = re.compile(rb"[ \t\v\f]+")
# As sequences are printed, ten letters to a block (J and O are in "connection reset", and in hardly a protein), and as
# some language models want them, each letter by itself.
BLOCK = 10
BLOCKS = re.compile(rb"(?:[A-IK-NP-Z*-]{10} )+[A-IK-NP-Z*-]{1,10}|(?:[a-ik-np-z*-]{10} )+[a-ik-np-z*-]{1,10}")
APART = re.compile(rb"(?:[A-Za-z*-] )+[A-Za-z*-]")
# Of sentences, markup and data.
MARKS = re.compile(rb"""["$%&'(),:;<=>@\[\]^`{|}]""")
# What a line of some length has one of.
LEAST_BYTES = 3
IN_SEQUENCES = re.compile(rb"[A-Za-z%b]" % re.escape(SIGNS))
# Words, also joined: Error, timeout, NullPointerException, java.lang.Error.
WORD = re.compile(rb"(?=.*[joOuJU])[A-Z]?[a-z]{2,}(?:(?:[A-Z]|[._/!-]+[A-Z]?)[a-z]{2,})*[._/!-]*")
LONGEST_WORD = 50


def strange_line(body: bytes) -> tuple[int, bytes] | None:
    r"""Return the first line below a header that is no sequence: its number, from 1, and its text; None without one.

    Examples
    --------
    >>> strange_line(b"MKVL\nInternal Server Error\n")
    (2, b'Internal Server Error')
    >>> strange_line(b"MKVLaaagsgsFF\nmkv*\n")
    >>> strange_line(b"  MKVLAAGIVG LLLAQWERTY AC\n")
    """
    if not body.translate(None, USUAL):
        return None
    lines = [BLANKS.sub(b" ", line).strip() for line in LINE_ENDS.split(body)]
    has_upper = any(line.isupper() for line in lines)
    strange = [index for index, line in enumerate(lines) if is_strange(line, has_upper)]
    if not strange and any(len(line) > BLOCK and not BLOCKS.fullmatch(line) for line in lines):
        # Blocks in a record that has other lines are words.
        strange = [index for index, line in enumerate(lines) if BLOCKS.fullmatch(line)]
    return (strange[0] + 1, lines[strange[0]]) if strange else None


def is_strange(line: bytes, has_upper: bool) -> bool:
    """Return whether a line is no sequence; `has_upper` says that its record has lines in upper case."""
    if b" " in line:
        return not (BLOCKS.fullmatch(line) or APART.fullmatch(line))
    if MARKS.search(line) or (len(line) >= LEAST_BYTES and not IN_SEQUENCES.search(line)):
        return True
    # In a record in lower case a word may be its end (thioredoxin reductase's is gcug).
    is_word = len(line) <= LONGEST_WORD and WORD.fullmatch(line) is not None
    return is_word and (has_upper or not line.islower())
