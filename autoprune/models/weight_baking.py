"""Weights that a file has in parts (`weight_norm`, `spectral_norm`, masks), made into what a plain model has."""

from collections.abc import Callable, Container, Mapping

import torch
from torch import Tensor

from autoprune.models.weight_sets import WeightSet


def baked(wanted: Mapping[str, Tensor], own: Container[str], tensors: WeightSet) -> tuple[WeightSet, tuple[str, ...]]:
    """`tensors` with those that are `wanted` made of their parts, as they act in evaluation, and the names of these.

    Parts that the model has itself (`own`) stay; so do those that do not go together, or make another shape.
    """
    made, names = dict(tensors), []
    for name, like in wanted.items():
        for parts, act in _styles(name):
            if name in made or not all(part in made and part not in own for part in parts):
                continue
            values = [made[part] for part in parts]
            if not all(_is_plain(value) for value in values) or not any(value.shape == like.shape for value in values):
                continue
            if (weight := act(*values)) is None:
                continue
            made = {key: value for key, value in made.items() if key not in parts} | {name: weight}
            names.append(name)
    return made, tuple(names)


def _styles(name: str) -> list[tuple[tuple[str, ...], Callable[..., Tensor | None]]]:
    """The names of the parts of `name`, as old hooks and as parametrizations leave them, and what makes it of them."""
    stem, dot, field = name.rpartition(".")
    new = f"{stem}{dot}parametrizations.{field}"
    return [
        ((f"{name}_g", f"{name}_v"), weight_normed),
        ((f"{new}.original0", f"{new}.original1"), weight_normed),
        ((f"{name}_orig", f"{name}_mask"), _masked),
        ((f"{name}_orig", f"{name}_u", f"{name}_v"), spectrally_normed),
        ((f"{new}.original", f"{new}.0._u", f"{new}.0._v"), spectrally_normed),
    ]


def weight_normed(g: Tensor, v: Tensor) -> Tensor | None:
    """g · v / |v| (Salimans and Kingma 2016), the norm over the axes that g (one each, or none at all) lacks."""
    if g.ndim == 0:
        g = g.reshape((1,) * v.ndim)
    if g.ndim != v.ndim or any(size not in (1, whole) for size, whole in zip(g.shape, v.shape, strict=True)):
        return None
    axes = [axis for axis, size in enumerate(g.shape) if size == 1]
    return (g * v / torch.linalg.vector_norm(v, dim=axes, keepdim=True)) if axes else None


def spectrally_normed(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """weight / (uᵀ W v) (Miyato et al. 2018), W (len(u), len(v)) being `weight` with one of its axes first.

    Which axis, its length tells; of two that have it, the one whose largest singular value u and v are.
    """
    if u.ndim != 1 or v.ndim != 1 or weight.numel() != len(u) * len(v):
        return None
    axes = [axis for axis, size in enumerate(weight.shape) if size == len(u)]
    sigmas = [torch.dot(u, weight.movedim(axis, 0).flatten(1) @ v) for axis in axes]
    return weight / max(sigmas, key=lambda sigma: float(sigma.abs())) if sigmas else None


def _masked(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask if weight.shape == mask.shape else None


def _is_plain(tensor: Tensor) -> bool:
    strided = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized and not tensor.is_nested
    return strided and tensor.is_floating_point()
