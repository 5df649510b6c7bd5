"""Files of weights: where they lie, and what is in them; nothing here unpickles code."""

import argparse
import re
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from autoprune.errors import ModelError
from autoprune.files import named_path, shortened

HOW_TO_SAVE = "where the model was made, save its weights alone: torch.save(model.state_dict(), 'weights.pt')"
HEADER_BYTES = 9  # of safetensors: the length of the JSON in 8 bytes, then the JSON
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# What trainings keep beside weights and what holds values only: making one of these runs no code of the file's choice.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
PLAIN_TYPES: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace, np.dtype, np.ndarray),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def weights_path(checkpoint: str, shipped: dict[str, Path]) -> Path:
    """The file behind a shipped name or a path; `ModelError` says why there is none."""
    if checkpoint in shipped:
        return shipped[checkpoint]
    fix = f"give a file or a shipped name ({', '.join(shipped)})"
    if not checkpoint.strip():
        raise ModelError(f"checkpoint: the name is empty; {fix}")
    path, shown = named_path(checkpoint), shortened(checkpoint)
    try:
        if path.is_file():
            return path
        kind = "a folder, " if path.is_dir() else "not an ordinary file, " if path.exists() else ""
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown}: no such checkpoint ({getattr(error, 'strerror', error)}); {fix}") from None
    raise ModelError(f"{shown}: {kind}no such checkpoint; {fix}")


def read_content(path: Path) -> Any:
    """Whatever a `.safetensors` or torch file holds, of tensors and plain values.

    Raises `ModelError` if it cannot be read, is corrupt, or holds code or objects; nothing in it is run.
    """
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        if _is_torchscript(path):
            raise ModelError(
                f"{path}: holds more than tensors: it is a TorchScript program, which is never run; save its weights "
                f"alone: torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt')"
            )
        with torch.serialization.safe_globals(PLAIN_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # the readers raise almost anything on broken bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = ""
        if (named := GLOBAL.search(str(error))) is not None:
            reason, fix = f"a pickled {named[1]}", f"; {HOW_TO_SAVE}"
        raise ModelError(f"{path}: corrupt checkpoint, or one that holds more than tensors ({reason}){fix}") from None


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    return path.suffix == ".safetensors" or header[8:] == b"{"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
