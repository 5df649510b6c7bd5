"""An allocation beyond what the machine has free fails inside of the limit, and nothing is limited outside of it."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from autoprune.compute import memory as memory_limit
from autoprune.compute.memory import free_bytes, memory_limited

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's accounts of memory")


def test_what_is_free_is_less_than_there_is() -> None:
    free = free_bytes()
    assert free is not None
    assert 2**20 < free < 2**50


def test_too_much_fails_inside_and_the_limit_ends_with_the_block() -> None:
    import resource

    before, free = resource.getrlimit(resource.RLIMIT_AS), free_bytes()
    assert free is not None
    with memory_limited():
        np.empty(2**20, dtype=np.uint8)[:] = 1
        with pytest.raises(MemoryError):
            np.empty(2 * free, dtype=np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with pytest.raises(ZeroDivisionError), memory_limited():
        raise ZeroDivisionError
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_threads_that_overlap_leave_no_limit() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with memory_limited():
            entered.set()
            leave.wait(timeout=60)

    worker = threading.Thread(target=work)
    with memory_limited():
        limited = resource.getrlimit(resource.RLIMIT_AS)
        worker.start()
        assert entered.wait(timeout=60)
    assert resource.getrlimit(resource.RLIMIT_AS) == limited != before  # the other block is still open
    leave.set()
    worker.join(timeout=60)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("max", "5", 7 * 1024), ("4096", "1096", 3000), ("1000", "4096", 0), (None, None, 7 * 1024), ("x", "y", 7 * 1024)],
)
def test_the_smaller_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, used: str | None, free: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   7 kB\n")
    for name, content in (("limit", limit), ("used", used)):
        if content is not None:
            (tmp_path / name).write_text(content + "\n")
    for constant, name in (("MEMINFO", "meminfo"), ("GROUP_LIMIT", "limit"), ("GROUP_USE", "used")):
        monkeypatch.setattr(memory_limit, constant, tmp_path / name)
    assert free_bytes() == free
    monkeypatch.setattr(memory_limit, "MEMINFO", tmp_path / "none")
    assert free_bytes() == (None if limit in (None, "max", "x") else free)
    with memory_limited():  # whatever the accounts say, or do not
        pass
