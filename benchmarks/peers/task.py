"""What a peer is asked to do, and how its answer is kept: as every pruned network here, without pickle."""

import copy
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.data import SearchData, normalise
from autoprune.errors import RunError
from autoprune.models import ModelSpec
from autoprune.pruning.cost import layer_shapes
from autoprune.pruning.layers import kind_of, layer_sides
from autoprune.pruning.structure import load_pruned, save_pruned
from peers.table import Peer

COMPARED_IMAGES = 16
SAME = 1e-3  # of the logits' spread: rounding


@dataclass(frozen=True)
class Task:
    """Prune `model`, in place, by `knob`. A library that has to try candidates out scores `score_images` of the search
    split, as many as our own search; what it wants to keep for the next knob goes to `scratch`."""

    peer: Peer
    setting: str
    knob: float
    model: nn.Module
    data: SearchData
    score_images: int
    scratch: Path

    @property
    def value(self) -> int | None:
        """Of the setting."""
        return self.peer.settings[self.setting]


def classifier_name(task: Task) -> str:
    """The layer that runs last: its outputs are the classes and must all stay."""
    return list(layer_shapes(task.model, task.data.info.input_shape))[-1]


def write_cut(task: Task, folder: Path, spec: ModelSpec | None) -> None:
    """Let the peer prune, and write what it made. Raises `RunError` if the file would not hold the whole of it (a
    library may put layers of its own into a network); the peer's own errors are let through."""
    original = copy.deepcopy(task.model)
    pruned = importlib.import_module(f"peers.{task.peer.module}").prune(task).eval()
    save_pruned(folder, pruned, spec)
    read = load_pruned(folder, architecture=original)
    shown = normalise(task.data.search.images[:COMPARED_IMAGES], task.data.info)
    with torch.no_grad():
        expected, found = pruned(shown), read(shown)
    if (found - expected).abs().max() > SAME * expected.std():
        raise RunError(f"{task.peer.name} changed more than the widths of layers: it cannot be stored")


def shape_key(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Equal for cuts of one architecture that have the same widths, and so the same latency."""
    return tuple(layer_sides(module) for module in model.modules() if kind_of(module) is not None)


def reason(error: Exception) -> str:
    """The last line: libraries print tables first."""
    return (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
