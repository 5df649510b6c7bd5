"""Numbers and texts from outside, checked where they come in; each message names the argument and its range."""

import math
import numbers
import os

from autoprune.errors import InputError, shown

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


def _float(value: object) -> float:
    """NaN for what is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan
