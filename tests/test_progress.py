"""Progress is silent in a library, plain lines in a log, and bars in a terminal."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from autoprune import progress


@pytest.fixture
def shown() -> Iterator[None]:
    progress.show(True)
    yield
    progress.show(False)


def test_a_library_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("hello")
    with progress.bar("work", 3) as bar:
        bar.advance(3, "done")
    assert bar.done == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("shown")
def test_a_log_gets_whole_lines_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    long = "runs/[red]/[/x] " + "word " * 50 + "end"
    progress.say(long)
    progress.say("red\x1b[31m \u202ekcab é")
    with progress.bar("work [1/2]", 2) as bar:
        bar.advance()
        bar.advance(1, "accuracy 0.9")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [long, r"red\x1b[31m \u202ekcab é", "work [1/2] 2/2 accuracy 0.9"]


@pytest.mark.usefixtures("shown")
def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with progress.bar("work", 3) as bar:
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr().err.splitlines() == ["work 1/3", "work 2/3", "work 3/3"]


@pytest.mark.usefixtures("shown")
def test_a_terminal_gets_bars_that_may_be_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=terminal, force_terminal=True, width=100))
    with progress.bar("search [a]", 2) as outer:
        with progress.bar("inner", 5) as inner:
            inner.advance(5, "[/note]")
        outer.advance(2)
    with progress.bar("next", 1) as bar:
        bar.advance()
    text = terminal.getvalue()
    for part in ("search [a]", "inner", "5/5", "[/note]", "2/2", "next", "1/1"):
        assert part in text


@pytest.mark.usefixtures("shown")
def test_a_failure_inside_a_bar_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True, width=100))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), progress.bar("work", 1):
            raise ZeroDivisionError
