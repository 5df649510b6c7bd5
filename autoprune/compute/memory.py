"""How much memory a stranger's file may take: what the machine has free. More fails, and nothing else does."""

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

MEMINFO, OWN_STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
GROUP_LIMIT, GROUP_USE = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")

_lock = threading.Lock()
_before: list[tuple[int, int]] = []  # the limits that each open block found; in the end those of the first come back


def free_bytes() -> int | None:
    """What this process may still take before the machine, or its container, runs out; None where that cannot be told.

    Memory that only caches files counts as free on the machine, but not in the container's own count.
    """
    machine = _kilobytes(MEMINFO, "MemAvailable")
    limit, used = _number(GROUP_LIMIT), _number(GROUP_USE)
    group = max(0, limit - used) if limit is not None and used is not None else None
    return min((found for found in (machine, group) if found is not None), default=None)


@contextlib.contextmanager
def memory_limited() -> Iterator[None]:
    """Within the block an allocation beyond `free_bytes` raises, instead of bringing the whole machine down.

    Without Linux's accounts it changes nothing.
    """
    free, held = free_bytes(), _kilobytes(OWN_STATUS, "VmSize")
    if sys.platform != "linux" or free is None or held is None:
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        _before.append((soft, hard))
        if (
            len(_before) == 1
        ):  # the limit is the whole process's: of several threads the first sets it, the last lifts it
            limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min([held + free, *limits]), hard))
    try:
        yield
    finally:
        with _lock:
            found = _before.pop()
            if not _before:
                resource.setrlimit(resource.RLIMIT_AS, found)


def _kilobytes(file: Path, key: str) -> int | None:
    """A line such as `MemAvailable:  1234 kB`, in bytes."""
    found = next((line.split()[1] for line in _text(file).splitlines() if line.startswith(f"{key}:")), None)
    return int(found) * 1024 if found is not None else None


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None  # `max`: no limit


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
