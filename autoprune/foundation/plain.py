"""Plain characters in place of those that a terminal, a log or a pipe cannot take: no command fails for a `×`."""

# ruff: noqa: RUF001 (characters that look like others are what this is about)

import codecs
import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

HANDLER, KEEPING_BYTES = "autoprune.foundation.plain", "autoprune.plain_keeping_bytes"
UNKNOWN = "?"
LAST_STREAM = 2  # the number of stderr

REPLACEMENTS: Mapping[str, str] = {
    **dict.fromkeys("‐‑‒–—−─━╌╍┄┅┈┉╴╶╸╺═", "-"),
    **dict.fromkeys("│┃╎╏┆┇┊┋╵╷╹╻║", "|"),
    **dict.fromkeys("█▉▊▋▌▍▎▏▐░▒▓▀▄▁▂▃▅▆▇■●", "#"),
    **dict.fromkeys("‘’‚′", "'"),
    **dict.fromkeys("“”„″«»", '"'),
    **dict.fromkeys("·•∙⋅*", "*"),
    **dict.fromkeys("µμ", "u"),
    "×": "x", "÷": "/", "±": "+-", "…": "...", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->", "←": "<-",
    "↑": "^", "↓": "v", "✓": "+", "✔": "+", "✗": "-", "✘": "-", "°": " deg", "∞": "inf", "√": "sqrt", "Δ": "d",
    "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ł": "l", "Ł": "L", "đ": "d", "€": "EUR",
}  # fmt: skip
BOX_CORNERS = range(0x2500, 0x2580)  # those of a box that are no straight line


def plain(text: str) -> str:
    """`text` in ASCII: `×` is `x`, a letter loses its accent, a corner of a table is `+`; what is left is `?`."""
    return "".join(character if character.isascii() else _plain_character(character) for character in text)


def open_streams() -> None:
    """Where the process was started with stdout or stderr closed (`>&-`), what is printed goes nowhere.

    Their numbers are taken too, or the next file that is opened would get them, and what libraries print with it.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        pass
    os.close(null)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (open to the end)


def print_plainly() -> None:
    """From now on stdout and stderr of this process take any text, whatever encoding they have.

    Names of files that are no text at all come out byte by byte where Python would do so (in the C locale).
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # streams of notebooks and tests may have none
        if reconfigure is not None:
            reconfigure(errors=KEEPING_BYTES if stream.errors == "surrogateescape" else HANDLER)


def _plain_character(character: str) -> str:
    if character in REPLACEMENTS:
        return REPLACEMENTS[character]
    if ord(character) in BOX_CORNERS:
        return "+"
    if character.isspace():
        return " "
    apart = unicodedata.normalize("NFKD", character)
    return "".join(filter(str.isascii, apart)) or UNKNOWN


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


def _replaced_but_for_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Of what stands for a byte that was no text, that byte."""
    if isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff":
        return bytes([ord(error.object[error.start]) - 0xDC00]), error.start + 1
    return _replaced(error)


codecs.register_error(HANDLER, _replaced)
codecs.register_error(KEEPING_BYTES, _replaced_but_for_bytes)
