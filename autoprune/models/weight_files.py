"""Files of weights: where they lie, and what is in them; nothing here unpickles code."""

import argparse
import re
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from autoprune.errors import ModelError, cut
from autoprune.foundation.files import named_path
from autoprune.models.weight_kinds import AGAIN, HOW_TO_SAVE, is_safetensors, unreadable

SHIPPED = {
    "resnet20-fashion-mnist": Path(__file__).parent.parent / "checkpoints" / "resnet20_fashion_mnist.safetensors",
}
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# Of torch's own messages: what advises to run the file's code, and what speaks of torch's insides.
UNWANTED = re.compile("weights_only|weights only|miniz|enforce fail|enhancement|PytorchStreamReader", re.IGNORECASE)
# What trainings keep beside weights and what holds values only: making one of these runs no code of the file's choice.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
PLAIN_TYPES: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace, np.dtype, np.ndarray),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def weights_path(checkpoint: str) -> Path:
    """The file behind a shipped name or a path; `ModelError` says why there is none."""
    if checkpoint in SHIPPED:
        return SHIPPED[checkpoint]
    fix = f"give a file or a shipped name ({', '.join(SHIPPED)})"
    if not checkpoint.strip():
        raise ModelError(f"checkpoint: the name is empty; {fix}")
    path, shown = named_path(checkpoint), cut(checkpoint)
    try:
        if path.is_file():
            return path
        kind = "a folder, " if path.is_dir() else "not an ordinary file, " if path.exists() else ""
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown}: no such checkpoint ({getattr(error, 'strerror', error)}); {fix}") from None
    raise ModelError(f"{shown}: {kind}no such checkpoint; {fix}")


def read_content(path: Path) -> Any:
    """Whatever a safetensors or torch file holds, of tensors and plain values; which it is, its content tells.

    Raises `ModelError` if it cannot be read, is corrupt or of another kind, or holds code or objects; nothing in it is
    run.
    """
    try:
        if (kind := unreadable(path)) is not None:
            raise ModelError(f"{path}: {kind}")
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(PLAIN_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles of other versions
            with path.open("rb") as file:  # of a path, torch would go by the name's end
                return torch.load(file, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # the readers raise almost anything on broken bytes
        if (named := GLOBAL.search(str(error))) is not None:
            reason, fix = f" (a pickled {named[1]})", HOW_TO_SAVE
        else:
            first = str(error).splitlines()[0] if str(error) else ""
            reason = f" ({first})" if first and not UNWANTED.search(first) else ""
            fix = f"{AGAIN}, or {HOW_TO_SAVE}"
        raise ModelError(f"{path}: corrupt checkpoint, or one that holds more than tensors{reason}; {fix}") from None
