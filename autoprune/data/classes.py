"""Names of classes: any text, told apart, in the order of the labels; and labels under names in another order."""

import unicodedata
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import DataError, listed, shown

LISTED = 5  # names in a message


def same_text(name: str) -> str:
    """One spelling for letters with accents, which file systems and editors compose in two ways (NFC)."""
    return unicodedata.normalize("NFC", name)


def class_names(names: Any, where: str) -> tuple[str, ...]:
    """The names as text; `DataError` if they have no order, two are the same, or one is no text that files can hold."""
    if isinstance(names, Set | Mapping) or not hasattr(names, "__iter__"):
        raise DataError(f"{where}: must be a list of names in the order of the labels, got a {type(names).__name__}")
    found = tuple(str(name) for name in names)
    seen: set[str] = set()
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{where}: {name!a} is no text that a file can hold (UTF-8); rename it") from None
        if same_text(name) in seen:
            raise DataError(f"{where}: two classes are called {name!r}; rename or join them")
        seen.add(same_text(name))
    return found


def mapped_labels(labels: Tensor, given: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """(N,) labels that count in `given`, counted in `classes`, those of train, instead.

    Raises `DataError` that lists the difference unless both have the same names, in whatever order.
    """
    places = {same_text(name): place for place, name in enumerate(classes)}
    named = [same_text(name) for name in given]
    ours, theirs = set(places), set(named)
    if ours != theirs:
        differences = [
            f"{label} {listed(sorted(names), most=LISTED, show=shown)}"
            for label, names in (("train alone has", ours - theirs), ("train lacks", theirs - ours))
            if names
        ]
        raise DataError(f"{where}: its classes are not those of train ({'; '.join(differences)}); give both the same")
    return torch.tensor([places[name] for name in named])[labels]
