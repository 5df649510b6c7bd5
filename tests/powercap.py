"""A made-up powercap tree that counts what one real process does: idle power all the time, more while it computes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IDLE_W, BUSY_W = 2.0, 20.0  # BUSY_W comes on top while the watched process's main thread runs
RANGE_UJ = 30_000_000  # a real counter takes longer than this to start again at zero


class Powercap:
    """`root` is what AUTOPRUNE_POWERCAP must name; set `watched` to a process's number once it runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.watched: int | None = None
        self.wraps = 0
        self._folder = root / "intel-rapl:0"
        self._folder.mkdir(parents=True)
        (self._folder / "name").write_text("package-0\n")
        (self._folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        self._started = time.perf_counter()
        self.count()

    def count(self) -> None:
        """Written beside and moved there: a reader never sees half a number."""
        joules = IDLE_W * (time.perf_counter() - self._started) + BUSY_W * self._busy_s()
        wraps, energy_uj = divmod(int(joules * 1e6), RANGE_UJ)
        self.wraps = max(self.wraps, wraps)
        (self._folder / "new").write_text(f"{energy_uj}\n")
        (self._folder / "new").replace(self._folder / "energy_uj")

    def _busy_s(self) -> float:
        if self.watched is None:
            return 0.0
        try:
            return int(Path(f"/proc/{self.watched}/schedstat").read_text().split()[0]) * 1e-9
        except (OSError, IndexError):  # it has ended
            return 0.0


@contextmanager
def powercap(root: Path) -> Iterator[Powercap]:
    """A tree whose counter moves every millisecond or so while the block runs."""
    made, stop = Powercap(root), threading.Event()

    def advance() -> None:
        while not stop.wait(0.001):
            made.count()

    thread = threading.Thread(target=advance)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()
