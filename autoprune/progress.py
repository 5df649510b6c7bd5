"""Progress on long work: bars in a terminal, a line now and then in a log, nothing in a quiet library."""

import contextlib
import time
from collections.abc import Iterator

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


def show(shown: bool) -> None:
    """Switch progress on or off for this process; the command line switches it on."""
    global _shown
    _shown = shown


def say(message: str) -> None:
    """One line on stderr, as it stands: square brackets are no markup and long lines are not wrapped."""
    if _shown:
        console.print(visible(message), markup=False, soft_wrap=True)


class Bar:
    """One piece of work with a known length; `advance` counts, `note` says how it goes."""

    def __init__(self, description: str, total: int, display: Progress | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._display = display
        self._task: TaskID | None = None
        if display is not None:
            self._task = display.add_task(description, total=total, note="")
        self._next_log = time.monotonic() + LOG_INTERVAL_S

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self.done += count
        if self._display is not None and self._task is not None:
            self._display.advance(self._task, count)
            if note is not None:
                self._display.update(self._task, note=note)
        elif _shown and (self.done >= self.total or time.monotonic() >= self._next_log):
            self._next_log = time.monotonic() + LOG_INTERVAL_S
            say(f"{self.description} {self.done}/{self.total} {note or ''}".rstrip())


@contextlib.contextmanager
def bar(description: str, total: int) -> Iterator[Bar]:
    """Show work of `total` steps until the block ends; bars may be nested."""
    global _display
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
