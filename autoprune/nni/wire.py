"""What a trial and the service that scores it say to each other: a line of JSON at a time, over a Unix socket in the
run's folder. Nothing but the standard library, so that a trial starts at once."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOCKET = "service.sock"
LONGEST_LINE = 2**20  # bytes
Message = dict[str, Any]


class ServiceGone(Exception):
    """Nobody serves, or who did has ended."""


class Line:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._file = connection, connection.makefile("rb")

    def send(self, message: Message) -> None:
        """Raises `ServiceGone` if nobody listens any more."""
        try:
            self._connection.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")
        except OSError:
            raise ServiceGone from None

    def receive(self) -> Message:
        """Raises `ServiceGone` at the end of the connection, and `ValueError` for what is no message."""
        try:
            line = self._file.readline(LONGEST_LINE)
        except OSError:
            raise ServiceGone from None
        if not line or (not line.endswith(b"\n") and len(line) < LONGEST_LINE):  # it ended midway
            raise ServiceGone
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ValueError(f"no message: {line[:80]!r}")
        return message

    def is_open(self) -> bool:
        """Whether the other end is still there; what it has said meanwhile stays unread."""
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._connection.close()


@contextlib.contextmanager
def connected(folder: Path) -> Iterator[Line]:
    """To the service of the experiment in `folder`. Raises `ServiceGone` if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with address_in(folder) as address:
                connection.connect(address)
        except OSError:  # no folder, no socket, or nobody behind it
            raise ServiceGone from None
        with contextlib.closing(Line(connection)) as line:
            yield line


@contextlib.contextmanager
def address_in(folder: Path) -> Iterator[str]:
    """The socket's address for a moment: short, since a long path is none for a socket."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
