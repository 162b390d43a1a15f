"""What all commands share: examples in the help, --json, --quiet and --verbose, and no time on a terminal."""

import argparse
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from embedome.cli.main import main, make_parser
from embedome.cli.parser import CommandParser
from embedome.models.registry import REGISTRY
from helpers.paths import SCRIPTS

TIME = re.compile(r"\d\d:\d\d:\d\d")


def commands(parser: CommandParser) -> Iterator[CommandParser]:
    """Yield a parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from commands(each)


ALL = {parser.prog: parser for parser in commands(make_parser())}


def test_all_commands_are_looked_at():
    assert len(ALL) > 24
    assert {"embedome embed", "embedome models list", "embedome average"} <= ALL.keys()


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_each_command_ends_with_examples_of_it_that_parse(name):
    text = ALL[name].format_help()
    shown = [line.strip() for line in text.partition("\nExamples:\n")[2].splitlines()]
    assert shown
    for line in shown:
        assert line.startswith(name)
        options = make_parser().parse_args(shlex.split(line)[1:])
        assert options.run is not None
        assert len(line) <= 118


@pytest.mark.parametrize("name", ALL)
def test_models_that_examples_name_are_known(name):
    for line in ALL[name].examples:
        named = re.findall(r"(?:models fetch|plan -m|models init) ([\w-]+)(?: |$)", line)
        assert set(named) <= REGISTRY.keys()


@pytest.mark.parametrize("name", ALL)
def test_each_command_takes_the_shared_options(name):
    flags = {flag for action in ALL[name]._actions for flag in action.option_strings}
    assert {"--quiet", "--verbose", "--json"} <= flags


def test_no_command_prints_the_help_and_ends_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == make_parser().format_help()
    assert said.err == ""


@pytest.mark.parametrize("arguments", [["--json", "models"], ["models", "--json"], ["models", "list", "--json"]])
def test_a_shared_option_may_stand_before_or_after_the_command(arguments, capsys):
    main(arguments)
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == REGISTRY.keys()


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["workflow", "{tmp}/run"], {"folder", "version", "files"}),
        (["clean", "{tmp}"], {"removed", "files"}),
        (["completion", "bash"], {"shell", "script"}),
        (["plan", "-m", "esm1nv"], {"device_hours", "cost"}),
        (["plan", "--pretrain", "esm1nv"], {"device_hours", "parameters"}),
    ],
)
def test_a_result_is_words_or_one_json_document(arguments, keys, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    arguments = [each.format(tmp=tmp_path) for each in arguments]
    main([*arguments, "--json"])
    assert keys <= json.loads(capsys.readouterr().out).keys()
    main([each.replace("/run", "/other") for each in arguments])
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        json.loads(capsys.readouterr().out)


PROGRAM = """
import logging, sys, warnings
from embedome.cli import main as cli
from embedome.common.errors import UserError
from embedome.cli.answer import Answer
from embedome.common.log import Progress

def run(options):
    log = logging.getLogger("embedome.made")
    for level in ("debug", "info", "warning"):
        getattr(log, level)("a line of %s", level)
    logging.getLogger("another").debug("of another library")
    warnings.warn("a warning of Python")
    with Progress("made", "things", 10) as progress:
        progress.update(10)
    if options.delete:
        raise UserError("in.fasta: wrong")
    return Answer({"made": 1}, ["one made"])

import embedome.cli.clean
embedome.cli.clean.run_clean = run
cli.main(sys.argv[1:])
"""


def said(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and log of a made command."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "clean", ".", *arguments],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def said_on_terminal(*arguments: str) -> str:
    """What a made command writes to a terminal."""
    mine, other = pty.openpty()
    termios.tcsetwinsize(other, (24, 100))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "clean", ".", *arguments],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.DEVNULL,
        stderr=other,
    ):
        os.close(other)
        text = b""
        try:
            while block := os.read(mine, 1 << 16):
                text += block
        except OSError:  # as Linux ends a terminal that nobody holds
            pass
    os.close(mine)
    return text.decode()


def test_the_log_says_as_much_as_is_asked_for():
    code, out, log = said()
    assert (code, out) == (0, "one made\n")
    assert "a line of info" in log
    assert "a line of warning" in log
    assert "a line of debug" not in log
    _, out, log = said("--quiet")
    assert (out, log) == ("one made\n", "")
    _, _, log = said("--verbose")
    assert "a line of debug" in log
    assert "embedome clean . --verbose" in log
    assert "of another library" not in log


def test_an_error_is_said_in_quiet_and_has_its_place_in_verbose():
    for options in ((), ("--quiet",)):
        code, out, log = said("--delete", *options)
        assert (code, out) == (2, "")
        assert log.endswith("ERROR in.fasta: wrong\n")
        assert "Traceback" not in log
    code, _, log = said("--delete", "--verbose")
    assert code == 2
    assert log.splitlines()[-1].endswith("UserError: in.fasta: wrong")
    assert "Traceback" in log


def test_lines_have_the_time_where_no_person_reads_along():
    assert TIME.search(said()[2])
    text = said_on_terminal()
    assert "WARNING a line of warning" in text
    assert "10.0/10.0" in text
    assert not re.search(r"\d\d:\d\d:\d\d,\d", text)
    assert said_on_terminal("--quiet") == ""


def test_json_is_one_document_and_nothing_else():
    _, out, _ = said("--json", "--verbose")
    assert json.loads(out) == {"made": 1}


@pytest.mark.slow
def test_other_libraries_write_no_bars_into_a_file_and_nothing_in_quiet(tmp_path):
    size = ["--layers", "1", "--hidden", "16", "--heads", "2", "--feed-forward", "16"]
    for name, options in (("a", []), ("b", ["--quiet"])):
        result = subprocess.run(
            [sys.executable, "-m", "embedome", "models", "init", "esm2-8m", tmp_path / name, *size, *options],
            env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        assert result.stdout.startswith(f"{tmp_path / name}: esm2-8m with random weights, layers 1, hidden 16")
        assert "%" not in result.stderr
        assert (result.stderr == "") == bool(options)
