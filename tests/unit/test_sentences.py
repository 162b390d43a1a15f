"""Sentences of documents, captions, help texts and configuration files are short: 35 words at most."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedome.cli.main import make_parser
from helpers.documents import DOCUMENTS, name_of
from helpers.paths import ROOT

LONGEST = 35
CONFIGURATION = [ROOT / "config.yaml", ROOT / "slurm" / "config.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
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


def too_long(text: str) -> list[str]:
    """Return the sentences with too many words, and how many."""
    return [f"{words(each)} words: {each}" for each in sentences(text) if words(each) > LONGEST]


def help_texts(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield descriptions, epilogs and the help of all options of a parser and its commands."""
    yield parser.description or ""
    yield parser.epilog or ""
    for action in parser._actions:
        yield action.help or ""
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from help_texts(command)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sentences_are_short(path: Path) -> None:
    assert too_long(path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "report").glob("*.rst")), ids=name_of)
def test_sentences_of_captions_are_short(path: Path) -> None:
    assert too_long(path.read_text()) == []


@pytest.mark.parametrize("path", CONFIGURATION, ids=name_of)
def test_sentences_of_comments_are_short(path: Path) -> None:
    comments = re.findall(r"(?:^|\s)#+ (.*)$", path.read_text(), re.MULTILINE)
    assert comments
    assert [found for comment in comments for found in too_long(comment)] == []


def test_sentences_of_help_texts_are_short() -> None:
    texts = list(help_texts(make_parser()))
    assert len(texts) > 100
    assert [found for text in texts for found in too_long(text)] == []


def test_sentences_are_told_apart() -> None:
    text = "# H\n\nOne, e.g. this\nline ([a](b.c)). Two!\n- Three\n\n    no prose.\n\n| no | prose |\n\n```sh\nno\n```"
    assert list(sentences(text)) == ["# H", "One, e.g this line ([a]).", "Two!", "- Three", ""]
    assert words("- It is `a b c`, 2 words") == 5
