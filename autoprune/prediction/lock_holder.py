"""Who holds the write lock of an SQLite file, as Linux tells it. To open the file here would drop our own locks."""

from pathlib import Path

LOCKS = Path("/proc/locks")
PROCESSES = Path("/proc")
FIRST_BYTE, LAST_BYTE = 2**30, 2**30 + 1  # SQLite locks one of these to write, whatever the size of the file
LONGEST_COMMAND = 100  # characters


def lock_holder(path: Path) -> str:
    """`process 4711 (autoprune run demo)`; `another process` where that cannot be told."""
    try:
        inode = path.stat().st_ino
        lines = LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "another process"
    for line in lines:
        pid = _writer(line.split(), inode)
        if pid is not None:
            command = _command(pid)
            return f"process {pid}{f' ({command})' if command else ''}"
    return "another process"


def _writer(fields: list[str], inode: int) -> int | None:
    """The process of a line such as `1: POSIX ADVISORY WRITE 4711 fe:00:1234 1073741825 1073741825`."""
    if len(fields) != 8 or fields[3] != "WRITE" or fields[5].rpartition(":")[2] != str(inode):
        return None
    first, last = int(fields[6]), LAST_BYTE if fields[7] == "EOF" else int(fields[7])
    pid = int(fields[4])
    return pid if first <= LAST_BYTE and last >= FIRST_BYTE and pid > 0 else None


def _command(pid: int) -> str:
    try:
        words = (PROCESSES / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    shown = " ".join("".join(filter(str.isprintable, word)) for word in words if word)
    return shown if len(shown) <= LONGEST_COMMAND else f"{shown[:LONGEST_COMMAND]}..."
