"""Numbers and texts from outside, checked where they come in; each message names the argument and its range."""

import math
import numbers
import os

from autoprune.errors import InputError

LONGEST_SHOWN = 200  # characters of what was given, in a message
LARGEST_WHOLE = 2**53  # what every float, JSON and SQLite hold exactly


def real_number(name: str, value: object, *, least: float, most: float, above_least: bool = False) -> float:
    """`value` as a float from `least` (or above it) to `most`. Raises `InputError` naming `name` and that range.

    Booleans and texts are no numbers, and NaN lies in no range.
    """
    found = _float(value)
    if not (math.isfinite(found) and least <= found <= most) or (above_least and found == least):
        start = "" if least == -math.inf else f" above {least:g}" if above_least else f" from {least:g}"
        end = "" if most == math.inf else f" to {most:g}"
        raise InputError(f"{name}: must be a finite number{start}{end}, got {shown(value)}")
    return found


def whole_number(name: str, value: object, *, least: int, most: int = LARGEST_WHOLE) -> int:
    """`value` as an int of `least` to `most`. Raises `InputError` naming `name` and that range."""
    is_number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # type: ignore[operator]
        raise InputError(f"{name}: must be a whole number from {least} to {most}, got {shown(value)}")
    return int(value)  # type: ignore[call-overload,no-any-return]


def thread_count(name: str, value: object) -> int:
    """`value`, if this machine has so many processors: more threads than those wait for each other.

    Raises `InputError` naming `name` and that range.
    """
    return whole_number(name, value, least=1, most=os.cpu_count() or 1)


def shown(value: object, longest: int = LONGEST_SHOWN) -> str:
    """How a message shows what was given: cut where it is long."""
    try:
        text = repr(value)
    except Exception as error:  # a stranger's object, or a number of more digits than Python prints
        return f"{type(value).__name__} ({type(error).__name__})"
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def _float(value: object) -> float:
    """NaN for what is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan
