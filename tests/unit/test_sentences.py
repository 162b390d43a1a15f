"""Sentences of README and docs/ are short: 35 words at most."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.documents import DOCUMENTS, name_of

LONGEST = 35
# Being rewritten for other reasons.
NOT_YET = ("analysis.md", "fine-tuning.md", "pretraining.md")
# What is no prose: fenced blocks, indented commands, tables, images, and the addresses of links.
NO_PROSE = re.compile(r"^(```|~~~).*?^\1|^ {4}.*?$|^\|.*?$|^!\[.*?$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"\]\([^)]*\)")
# A new paragraph, heading or item of a list.
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |#))")
# A point after one of these ends no sentence.
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|et al|vs|cf)\.")
SENTENCE_END = re.compile(r"(?<=[.!?])[)*_]*\s+")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a document in Markdown, in one line each."""
    text = ABBREVIATION.sub(r"\1", ADDRESS.sub("]", NO_PROSE.sub("", text)))
    for paragraph in PARAGRAPH.split(text):
        yield from SENTENCE_END.split(" ".join(paragraph.split()))


def words(sentence: str) -> int:
    """Return the number of words; code is one word."""
    return len([word for word in re.sub(r"`[^`]*`", "code", sentence).split() if re.search(r"\w", word)])


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name not in NOT_YET], ids=name_of)
def test_sentences_are_short(path: Path) -> None:
    found = [f"{words(each)} words: {each}" for each in sentences(path.read_text()) if words(each) > LONGEST]
    assert found == []


def test_sentences_are_told_apart() -> None:
    text = "# H\n\nOne, e.g. this\nline ([a](b.c)). Two!\n- Three\n\n    no prose.\n\n| no | prose |\n\n```sh\nno\n```"
    assert list(sentences(text)) == ["# H", "One, e.g this line ([a]).", "Two!", "- Three", ""]
    assert words("- It is `a b c`, 2 words") == 5
