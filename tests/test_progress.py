"""Progress is silent in a library, plain lines in a log, and bars in a terminal."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from autoprune.foundation import progress


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
    assert capsys.readouterr().err.splitlines() == [
        "work 1/3, about 0 s left",
        "work 2/3, about 0 s left",
        "work 3/3",
    ]


@pytest.mark.usefixtures("shown")
def test_a_log_tells_the_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where what was counted goes on being measured; but what is new of it."""
    with progress.bar("work", 1) as bar:
        bar.advance()
        for _ in range(20):
            bar.advance(0)
        for _ in range(2):
            bar.advance(0, "accuracy 0.9")
    assert capsys.readouterr().err.splitlines() == ["work 1/1", "work 1/1 accuracy 0.9"]


@pytest.mark.usefixtures("shown")
def test_a_log_says_how_long_the_rest_takes_and_how_it_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes five minutes: after 4 of 20 sixteen are left, which is an hour and twenty minutes."""
    now = iter([0.0, *(300.0 * step for step in range(1, 5) for _ in range(3))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.bar("training", 20) as bar:
        bar.advance(1, "epoch 1: 90%")
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr().err.splitlines()[-1] == "training 4/20, about 1 h 20 min left epoch 1: 90%"


@pytest.mark.usefixtures("shown")
def test_the_stages_of_a_job_are_told_and_stand_before_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stages(["read", "search", "measure"]) as stage:
        stage.begin("read")
        with progress.bar("layers", 1) as bar:
            bar.advance()
        stage.begin("search")
        with progress.bar("episodes", 1) as bar:
            bar.advance()
        with pytest.raises(ValueError, match="dance"):
            stage.begin("dance")
    with progress.bar("after", 1) as bar:
        bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "stage 1 of 3: read",
        "1/3 layers 1/1",
        "stage 2 of 3: search, 0 s so far",
        "2/3 episodes 1/1",
        "after 1/1",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3905, "1 h 5 min")]
)
def test_durations_by_hand(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


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
