"""The errors that a user can mend; the command line turns each into one message and an exit code."""

from collections.abc import Callable, Iterable
from typing import Any

LONGEST_MESSAGE = 2000  # characters: more is a value that was echoed, or hundreds of mistakes
LONGEST_VALUE = 160  # characters of a value that a message shows
LONGEST_NAME = 100  # of a name
CONTROLS = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))  # the last turn text
UNSEEN = {chr(code): repr(chr(code))[1:-1] for code in CONTROLS if not chr(code).isspace()}


class AutopruneError(Exception):
    """Something that the user can mend; `exit_code` is what the command line ends with.

    A very long message keeps its beginning, which names the field, and its end, which names the fix. What would move a
    terminal's cursor or turn its text round, in a name from a file, is written out.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(cut(visible(message), LONGEST_MESSAGE))


class InputError(AutopruneError):
    """Bad input, found before any long work starts: the message names the field or file and the fix."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file or an `-o key=value` override is wrong."""


class DataError(InputError):
    """A data set is missing, corrupt or of the wrong shape."""


class ModelError(InputError):
    """A model cannot be built, loaded, or is no classifier of the data's shape."""


class TargetError(InputError):
    """No policy can meet the target; the message says the floor."""


class RunError(AutopruneError):
    """The run failed midway; what was done so far is kept and `--resume` goes on."""


class UserCodeError(RunError):
    """A user's own file raised something; the message names its key, the file and the line."""

    exit_code = 2


def visible(text: str) -> str:
    """`text` with control characters, other than white space, as escapes: `\\x1b`."""
    return "".join(UNSEEN.get(character, character) for character in text)


def cut(text: str, limit: int = LONGEST_VALUE) -> str:
    """`text`, its middle left out if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    ends = (limit - 2) // 2
    return f"{text[:ends]} … {text[-ends:]} ({len(text):,} characters)"


def shown(value: Any, longest: int = LONGEST_VALUE) -> str:
    """A value as a message shows it: its `repr`, cut; the type alone where it has none."""
    try:
        return cut(repr(value), longest)
    except Exception:  # whole numbers of thousands of digits have no repr, other objects raise what they like
        return f"a {type(value).__name__} that cannot be shown"


def plain_name(name: str) -> str:
    """A name from a file as a message shows it: cut if it is long, escaped if it would change a terminal."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else shown(name, LONGEST_NAME)


def listed(names: Iterable[str], *, most: int = 8, show: Callable[[str], str] = plain_name) -> str:
    """The first names, each as `show` has it, and how many there are."""
    told = list(map(show, names))
    return ", ".join([*told[:most], *([f"... ({len(told)} in all)"] if len(told) > most else [])])


def in_a_line(error: BaseException, longest: int = LONGEST_MESSAGE) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return cut(" ".join(str(error).split()) or type(error).__name__, longest)


def lines_of(error: BaseException) -> list[str]:
    """What an error says, line by line; its kind where it says nothing."""
    return str(error).strip().splitlines() or [type(error).__name__]
