"""Weights in and out: safetensors, or torch files read with `weights_only=True`; nothing here unpickles code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from autoprune.errors import ModelError, in_a_line, listed, shown
from autoprune.foundation.files import atomic_path
from autoprune.foundation.progress import say
from autoprune.models.weight_checks import check_shapes_known, converted
from autoprune.models.weight_files import read_content, weights_path
from autoprune.models.weight_fit import Fit, common, fit
from autoprune.models.weight_sets import (
    EXTRA_STATE,
    WeightSet,
    chosen_set,
    distinct,
    tensors_in,
    undecided,
    weight_sets,
)

WRONG_LISTED = 6  # of what does not fit, in a message
UNBAKED = "; bake them in where it was made: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"


def load_weights(model: nn.Module, checkpoint: str, *, key: str | None = None) -> None:
    """Load a shipped name or a file into `model`, which is changed only if all fits.

    Names that a wrapper or a compiler put around the weights' are read as if they were not there. Of several sets in
    one file `key` chooses, or else the first known name whose set fits; which one it was is said, as is what is left
    out, filled or baked in. float16, bfloat16 and float64 become the model's type. Raises `ModelError` that names the
    file and what is missing, does not fit, cannot be weights, or leaves open which weights are meant.
    """
    path = weights_path(checkpoint)
    sets = weight_sets(read_content(path), path)
    if key is not None:
        sets = chosen_set(sets, key, path)
    check_shapes_known(model, str(path))
    expected = _state(model, str(path))
    sets = distinct(sets)
    fits = {name: fit(expected, tensors) for name, tensors in sets.items()}
    fitting = [name for name, made in fits.items() if not made.wrong]
    if not fitting:
        name = max(sets, key=lambda name: common(expected, sets[name]))
        raise ModelError(_misfit(path, name, sets, fits[name]))
    name = fitting[0]
    if undecided(fitting):
        there = listed(fitting, show=shown)
        raise ModelError(f"{path}: weights that fit are under {there}: model.checkpoint_key chooses")
    if choices := [f"{name}.{start}" if name else start for start in fits[name].choices]:
        raise ModelError(
            f"{path}: names of weights that fit begin with {listed(choices, show=shown)}: model.checkpoint_key chooses"
        )
    given = fits[name].tensors
    ready = converted(model, expected, given, str(path))
    kept = [name for name in expected if name not in ready]
    try:
        load_tensor_state(model, ready)
    except Exception as error:  # the model's own hooks and extra state may raise anything
        raise ModelError(f"{path}: the model does not take its weights ({in_a_line(error)})") from None
    if others := [other for other in sets if other != name and common(expected, sets[other])]:
        taken = f"weights under {shown(name)} are taken"
        say(f"{path}: {taken}; {listed(others, show=shown)} is there too: model.checkpoint_key chooses")
    for done in fits[name].said:
        say(f"{path}: {done}")
    floats = [(given[name].dtype, made.dtype) for name, made in ready.items() if made.is_floating_point()]
    if cast := sorted({str(before).removeprefix("torch.") for before, after in floats if before != after}):
        say(f"{path}: its {' and '.join(cast)} weights are computed with in the model's float32")
    if kept:
        say(f"{path}: {listed(kept)} stays as the model has it: it is no tensor in the file")


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the state dict as safetensors (contiguous, on the CPU), whole or not at all.

    Extra state is written where it is a tensor; what else a model keeps there is its own to make again.
    """
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    state = tensors_in(_state(model, str(path)))
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata)


def tensor_state(model: nn.Module) -> WeightSet:
    """The state dict without what is no tensor: extra state of a model's own, which nothing here pickles."""
    return tensors_in(model.state_dict())


def load_tensor_state(model: nn.Module, tensors: WeightSet) -> None:
    """Load what `tensor_state` gave; extra state that it has not stays as the model has it."""
    own = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[2] == EXTRA_STATE}
    model.load_state_dict(own | tensors)


@contextlib.contextmanager
def extra_state_left_out(model: nn.Module) -> Iterator[None]:
    """While the block runs, the state dict has parameters and buffers alone, which is what exporters take it to be."""

    def leave_out(_module: nn.Module, state: dict[str, Any], _prefix: str, _metadata: Any) -> None:
        for name in [name for name in state if name.rpartition(".")[2] == EXTRA_STATE]:
            del state[name]

    handle = model.register_state_dict_post_hook(leave_out)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        handle.remove()


def _state(model: nn.Module, where: str) -> dict[str, Any]:
    try:
        return dict(model.state_dict())
    except Exception as error:  # a model's own `get_extra_state` may raise anything
        raise ModelError(f"{where}: the model cannot give its state ({type(error).__name__}: {error})") from None


def _misfit(path: Path, name: str, sets: dict[str, WeightSet], made: Fit) -> str:
    under = f" under {shown(name)}" if name else ""
    others = [other for other in sets if other and other != name]
    hint = f"; it also holds {listed(others, show=shown)}: model.checkpoint_key chooses" if others else ""
    unbaked = UNBAKED if any(".parametrizations." in f".{each}" for each in made.unexpected) else ""
    wrong = "; ".join(made.wrong[:WRONG_LISTED])
    return f"{path}: does not fit the model{under} ({wrong}; {len(made.wrong)} in all){unbaked}{hint}"
