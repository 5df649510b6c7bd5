"""Whatever stdout and stderr can take, commands print: plain characters stand in for others."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from small_job import COMMAND, environment
from test_architecture import SOURCES

from autoprune.foundation.plain import HANDLER, KEEPING_BYTES, UNKNOWN, plain
from autoprune.foundation.terminal import titled

ENCODINGS = {
    "forced to ASCII": {"PYTHONIOENCODING": "ascii"},
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "both": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "us-ascii"},
}


def run(encoding: str, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, both of which must be ASCII."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, env=environment(**ENCODINGS[encoding]), capture_output=True, check=False)
    return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")


def test_plain_by_hand() -> None:
    assert plain("2.0× (−1.5 … ±0.3 µs) 1–2 → é ü ß ≤") == "2.0x (-1.5 ... +-0.3 us) 1-2 -> e u ss <="
    assert plain("┏━┓│█░") == "+-+|##"
    assert plain("日本 \udcff\u2003x") == "?? ? x"


@given(text=st.text())
def test_any_text_becomes_ascii_and_ascii_stays(text: str) -> None:
    assert plain(text).isascii()
    assert plain(plain(text)) == plain(text)
    if text.isascii():
        assert plain(text) == text


@given(text=st.text(st.characters(exclude_categories=[])))
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("handler", [HANDLER, KEEPING_BYTES])
def test_any_text_can_be_written(encoding: str, handler: str, text: str) -> None:
    text.encode(encoding, handler)


def test_a_process_without_stdout_and_stderr_prints_nowhere() -> None:
    program = (
        "import os, sys; assert sys.stdout is sys.stderr is None; from autoprune.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "sys.stdout.flush(); sys.stderr.flush(); print(1); print(2, file=sys.stderr); os.write(1, b'3')\n"
        "assert os.open(os.devnull, os.O_RDONLY) > 2"
    )
    closed = ["bash", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, program]
    assert subprocess.run(closed, env=environment(), check=False).returncode == 0


def test_bytes_that_are_no_text_come_out_as_they_came_in() -> None:
    name = b"caf\xc3\xa9 \xff".decode("ascii", "surrogateescape")
    assert name.encode("ascii", KEEPING_BYTES) == b"caf\xc3\xa9 \xff"
    assert (name + "×").encode("ascii", KEEPING_BYTES) == b"caf\xc3\xa9 \xffx"
    assert name.encode("ascii", HANDLER) == b"caf?? ?"


def test_every_character_that_we_print_has_a_plain_one() -> None:
    used = {character for source in SOURCES.values() for character in source if not character.isascii()}
    assert {character for character in used if plain(character) == UNKNOWN} == set()


def test_boxes_are_plain_where_the_encoding_is() -> None:
    from rich.table import Table

    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=HANDLER)
    table = Table("×", "–")
    table.add_row("1 µs", "…")
    Console(file=file, width=40).print(titled("2×", table, "±"))
    file.flush()
    shown = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "2x" in shown.splitlines()[0]
    assert "1 us" in shown
    assert set(shown) <= set("x2-+|=1us. \n")


COMMANDS = ["run", "adapt", "search", "apply", "train", "report", "inspect", "bench", "evaluate", "compare", "front"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str) -> None:
    code, shown, errors = run("both", *filter(None, [command]), "--help")
    assert (code, errors) == (0, "")
    assert "Usage: " in shown


@pytest.mark.parametrize("encoding", ["forced to ASCII", "the C locale"])
def test_tables_and_what_is_said(encoding: str, tmp_path: Path) -> None:
    code, shown, errors = run(encoding, "inspect", "resnet20")
    assert code == 0, errors
    assert "resnet20, 1x28x28, 10 classes" in shown
    run_dir = tmp_path / "toy"
    code, shown, errors = run(encoding, "search", "toy", "--agent", "evolution", "--run-dir", run_dir)
    assert code == 0, errors
    code, shown, errors = run(encoding, "front", run_dir)
    assert code == 0, errors
    assert "before fine-tuning, on the search split" in shown


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors(encoding: str, tmp_path: Path) -> None:
    code, shown, errors = run(encoding, "bench", "--batch", "0", "x.onnx")
    assert (code, shown) == (2, "")
    assert "--batch" in errors
    for arguments in (("run", "nowhere"), ("front", tmp_path / "nowhere"), ("bench", tmp_path / "nowhere.onnx")):
        code, shown, errors = run(encoding, *arguments)
        assert (code, shown) == (2, "")
        assert errors.startswith("error: ")
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["forced to ASCII", "the C locale"])
def test_a_bench_with_everything(encoding: str, level_files: list[Path]) -> None:
    options = ("--seconds", "0.05", "--sweep", "--roofline")
    code, shown, errors = run(encoding, "bench", *level_files[:2], *options)
    assert code == 0, errors
    assert "0.onnx" in shown
    assert UNKNOWN not in shown


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    """Printed plainly where they are text; a name from a file that no file can have here is refused by name."""
    code, shown, errors = run("forced to ASCII", "front", tmp_path / "modèle")
    assert (code, shown) == (2, "")
    assert "modele/trials.sqlite: no such file" in errors
    config = tmp_path / "run.yaml"
    config.write_text("data: {name: 'imagefolder:/tmp/modèle'}", encoding="utf-8")
    for encoding in ENCODINGS:
        code, shown, errors = run(encoding, "run", config, "--run-dir", tmp_path / "run")
        assert code == 2, errors
        assert "modele" in errors
        assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_stream_without_an_encoding_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.foundation.plain import print_plainly

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    print_plainly()
