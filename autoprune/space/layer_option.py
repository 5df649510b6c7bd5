"""Options of single layers, beside the widths of groups: sparsity patterns and the like, of kinds that users add."""

import contextlib
import copy
import itertools
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from autoprune.errors import InputError, shown
from autoprune.foundation.factories import load_factory
from autoprune.space.policy import PruningPolicy

FIELD = "search.options"
NEAR = 0.1  # of a layer's weights: what is left over at the edge of a pattern


class OptionKind(Protocol):
    """What may be done to the weights of a layer. Sizes are whole numbers in units of the kind's own, such as 2 and 4
    of 4 weights; the largest changes nothing.

    `apply` changes `layer.weight` in place, whatever its width and wherever it lies in memory (channels last, say), and
    nothing else; applied again it changes nothing more. After each step of fine-tuning it is applied anew.
    """

    @property
    def name(self) -> str: ...

    def sizes(self, layer_name: str, layer: nn.Module) -> Sequence[int]:
        """Those that `layer` may have, ascending, from 1 on; none if it stays as it is."""
        ...

    def apply(self, layer: nn.Module, size: int) -> None: ...

    def left(self, size: int) -> float:
        """The share of the layer's weights, and so of its MACs, that is left at `size`: above 0, 1 at the largest."""
        ...


@dataclass(frozen=True)
class LayerOption:
    """A decision about one layer: which of the `sizes` it has."""

    layer: str
    sizes: tuple[int, ...]
    kind: OptionKind

    @property
    def name(self) -> str:
        return f"{self.layer} {self.kind.name}"

    def size_in(self, policy: PruningPolicy) -> int:
        return policy.as_dict().get(self.name, self.sizes[-1])

    def lost_importance(self, layer: nn.Module) -> tuple[float, ...]:
        """For each size, the share of the weights' squared sum that it removes."""
        whole = layer.weight.detach().double().square().sum().item()  # type: ignore[operator]
        lost = []
        for size in self.sizes:
            changed = copy.deepcopy(layer)
            with torch.no_grad(), _named(f"apply of {self.name} at {size}"):
                self.kind.apply(changed, size)
            kept = changed.weight.detach().double().square().sum().item()  # type: ignore[operator]
            lost.append(max(0.0, 1.0 - kept / whole) if whole > 0 else 0.0)
        return (*lost[:-1], 0.0)


def find_option_kinds(names: Sequence[str]) -> tuple[OptionKind, ...]:
    """Each of a user's own `path/file.py:factory`. Raises `InputError` for one that gives no kind of option."""
    found: list[OptionKind] = []
    for name in names:
        where = f"{FIELD}={name}"
        with _named(name):
            kind: OptionKind = load_factory(name, field=FIELD)()
        if lacking := [part for part in ("name", "sizes", "apply", "left") if not hasattr(kind, part)]:
            raise InputError(f"{where}: gave {shown(kind)}, which has no {', '.join(lacking)}")
        if not isinstance(kind.name, str) or not kind.name.strip() or kind.name in {other.name for other in found}:
            raise InputError(f"{where}: name must be a text of its own, got {shown(kind.name)}")
        found.append(kind)
    return tuple(found)


def layer_options(model: nn.Module, kinds: Sequence[OptionKind], run: Container[str]) -> tuple[LayerOption, ...]:
    """What `kinds` offer for those convolutions and linear layers of `model` that `run`, by name, and whose weights are
    theirs alone; in the model's order.

    Raises `InputError` for sizes that are no ascending whole numbers, or whose shares of weights do not ascend to 1,
    and for two kinds that are for one layer.
    """
    owners = Counter(id(layer.weight) for _, layer in _layers(model))
    found: dict[str, LayerOption] = {}
    for (name, layer), kind in itertools.product(_layers(model), kinds):
        if name not in run or owners[id(layer.weight)] > 1 or not (sizes := _checked_sizes(kind, name, layer)):
            continue
        if name in found:
            raise InputError(f"{FIELD}: {found[name].kind.name} and {kind.name} are both for {name}; a layer has one")
        found[name] = LayerOption(name, sizes, kind)
    return tuple(found.values())


def _layers(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """What a user's own code raises, as `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{FIELD}: {what} failed ({type(error).__name__}: {error})") from error


def apply_options(options: Sequence[LayerOption], model: nn.Module, policy: PruningPolicy) -> None:
    """Apply what `policy` chooses, in place, to the layers that `model`, a cut, still has."""
    chosen = [option for option in options if option.kind.left(option.size_in(policy)) < 1]
    if not chosen:
        return
    layers = dict(model.named_modules())
    with torch.no_grad():
        for option in chosen:
            layer = layers.get(option.layer)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                with _named(f"apply of {option.name} at {option.size_in(policy)}"):
                    option.kind.apply(layer, option.size_in(policy))


def check_effects(options: Sequence[LayerOption], model: nn.Module, kinds: Sequence[OptionKind]) -> None:
    """Raises `InputError` for a kind that is for no layer, and for one that does not leave as many weights as it says:
    a search goes by what it says."""
    for kind in kinds:
        if not any(option.kind is kind for option in options):
            raise InputError(f"{FIELD}: {kind.name} is for no layer of this model; leave it out")
    for option in options:
        before = model.get_submodule(option.layer)
        for size in option.sizes:
            where = f"apply of {option.name} at {size}"
            layer = copy.deepcopy(before)
            with torch.no_grad(), _named(where):
                option.kind.apply(layer, size)
            weight, whole = layer.state_dict()["weight"], before.state_dict()["weight"]
            if weight.shape != whole.shape or not torch.isfinite(weight).all():
                raise InputError(f"{FIELD}: {where} gave weights of another shape, or not finite")
            left = int((weight != 0).sum()) / max(1, int((whole != 0).sum()))
            if abs(left - option.kind.left(size)) > NEAR:
                said = option.kind.left(size)
                raise InputError(f"{FIELD}: {where} left {left:.2f} of the weights, and `left` says {said:.2f}")


def _checked_sizes(kind: OptionKind, name: str, layer: nn.Module) -> tuple[int, ...]:
    with _named(f"{kind.name}: sizes of {name}"):
        sizes = tuple(kind.sizes(name, layer) or ())
    if not sizes:
        return ()
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
    if not whole or list(sizes) != sorted(set(sizes)) or len(sizes) < 2:
        raise InputError(
            f"{FIELD}: {kind.name}: sizes of {name} must be two ascending whole numbers or more, from 1 on, "
            f"got {shown(sizes)}"
        )
    with _named(f"{kind.name}: left"):
        shares = [float(kind.left(size)) for size in sizes]
    if not all(0 < low < high for low, high in itertools.pairwise(shares)) or shares[-1] != 1:
        raise InputError(f"{FIELD}: {kind.name}: left must ascend from above 0 to 1, gave {shown(shares)}")
    return sizes
