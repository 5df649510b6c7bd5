"""Progress on long work: bars in a terminal, a line now and then in a log, nothing in a quiet library."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autoprune.errors import visible

LOG_INTERVAL_S = 15.0

console = Console(stderr=True, highlight=False, emoji=False)
_shown = False
_display: Progress | None = None  # of the outermost bar; bars inside it are further lines of the same display
_stages: "Stages | None" = None  # of the job that runs


def show(shown: bool) -> None:
    """Switch progress on or off for this process; the command line switches it on."""
    global _shown
    _shown = shown


def say(message: str) -> None:
    """One line on stderr, as it stands: square brackets are no markup and long lines are not wrapped."""
    if _shown:
        console.print(visible(message), markup=False, soft_wrap=True)


class Stages:
    """The stages of a job, by name, in order: which one it is at is told as it begins, and before each bar."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._place, self._started = list(names), 0, time.monotonic()

    @property
    def prefix(self) -> str:
        return f"{self._place}/{len(self._names)} " if self._place else ""

    def begin(self, name: str) -> None:
        """The stage `name` begins; those before it are over. Raises `ValueError` for one that was not planned."""
        self._place = self._names.index(name) + 1
        so_far = f", {duration(time.monotonic() - self._started)} so far" if self._place > 1 else ""
        say(f"stage {self._place} of {len(self._names)}: {name}{so_far}")


@contextlib.contextmanager
def stages(names: Sequence[str]) -> Iterator[Stages]:
    """A job of these stages runs until the block ends."""
    global _stages
    before, _stages = _stages, Stages(names)
    try:
        yield _stages
    finally:
        _stages = before


def begin(name: str) -> None:
    """The stage `name` of the job that runs begins; where no job planned any, nothing is told."""
    if _stages is not None:
        _stages.begin(name)


def duration(seconds: float) -> str:
    """ "1 h 5 min", "3 min 20 s", "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Bar:
    """One piece of work with a known length; `advance` counts, `note` says how it goes."""

    def __init__(self, description: str, total: int, display: Progress | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._display, self._note = display, ""
        self._task: TaskID | None = None
        if display is not None:
            self._task = display.add_task(description, total=total, note="")
        self._started = time.monotonic()
        self._next_log = self._started + LOG_INTERVAL_S

    def advance(self, count: int = 1, note: str | None = None) -> None:
        is_news = count > 0 or note not in (None, self._note)  # work may go on for a while after all is counted
        self.done += count
        if self._display is not None and self._task is not None:
            self._display.advance(self._task, count)
            if note is not None:
                self._display.update(self._task, note=note)
        elif _shown and ((self.done >= self.total and is_news) or time.monotonic() >= self._next_log):
            self._next_log = time.monotonic() + LOG_INTERVAL_S
            say(f"{self.description} {self.done}/{self.total}{self._left()} {note or self._note}".rstrip())
        self._note = note or self._note

    def _left(self) -> str:
        """How long the rest takes, if it goes on as fast."""
        if not 0 < self.done < self.total:
            return ""
        spent = time.monotonic() - self._started
        return f", about {duration(spent / self.done * (self.total - self.done))} left"


@contextlib.contextmanager
def bar(description: str, total: int) -> Iterator[Bar]:
    """Show work of `total` steps until the block ends; bars may be nested."""
    global _display
    description = f"{_stages.prefix}{description}" if _stages is not None else description
    if _display is not None or not (_shown and console.is_terminal):
        yield Bar(description, total, _display)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    try:
        with Progress(*columns, console=console) as _display:
            yield Bar(description, total, _display)
    finally:
        _display = None
