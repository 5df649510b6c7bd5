"""Least-squares repair: the weights that a cut keeps make up for the inputs that it loses, without any training.

A layer's new weights are those whose outputs, on the original's inputs, come closest to the original's outputs (the
reconstruction of He et al. 2017, equation 1, for channels that are already chosen). All that takes of the data is the
inputs' covariance, gathered once; a cut then costs one small linear system for each layer, and each only once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.pruning.cost import pair
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.forward_pass import evaluation_mode, normalised_layers, watched
from autoprune.pruning.layers import Axis, is_plain
from autoprune.training.batchnorm import even_batches

SAMPLES = 30_000  # windows of each layer's input, as far as there are so many
# Of the mean variance. It holds the solution near the weights as they are: the inputs that a cut network computes are
# not those of the original that the covariance is of.
RIDGE = 0.1
REMEMBERED_BYTES = 1e9


@dataclass(frozen=True)
class InputMoments:
    """Of the windows that a layer's filters see, n = channels * height * width of the filter."""

    mean: Tensor  # (n,); zeros for a layer whose outputs cannot be shifted
    covariance: Tensor  # (n, n), around `mean`


class WeightRepair:
    """Repairs cuts of `elastic`, from `images` (N, C, H, W), normalised, none of them from the search or test split.

    Layers that are repaired: plain linear ones and convolutions, but no grouped ones, nor those that share a weight.
    """

    def __init__(self, elastic: ElasticModel, images: Tensor) -> None:
        self.elastic = elastic
        cut_inputs = {member.module for group in elastic.groups for member in group.members if member.axis == "in"}
        shared = _shared_weights(elastic.original)
        self._layers = {
            name: cast(nn.Conv2d | nn.Linear, module)
            for name, module in elastic.original.named_modules()
            if name in cut_inputs and _is_repairable(module) and id(module.weight) not in shared
        }
        self._moments = input_moments(elastic.original, self._layers, images)
        self._solved: dict[tuple[str, bytes], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def apply(self, cut: nn.Module, kept: Mapping[tuple[str, Axis], Tensor]) -> None:
        """Repair `cut`, in place; `kept` is what `ElasticModel.kept_channels` says of its policy."""
        gone = self.elastic.gone_layers(kept)
        for name in self._layers:
            inputs = kept.get((name, "in"))
            if inputs is None or name in gone or len(inputs) == self._layers[name].weight.shape[1]:
                continue
            weight, shift = self._repaired(name, inputs)
            outputs = kept.get((name, "out"))
            layer = cast(nn.Conv2d | nn.Linear, cut.get_submodule(name))
            layer.weight.copy_(weight if outputs is None else weight[outputs])
            if layer.bias is not None:
                layer.bias.add_(shift if outputs is None else shift[outputs])

    def _repaired(self, name: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of all outputs over the kept inputs, and by how much the bias moves."""
        key = (name, inputs.numpy().tobytes())
        if key not in self._solved:
            if sum(weight.nbytes for weight, _ in self._solved.values()) > REMEMBERED_BYTES:
                self._solved.clear()
            self._solved[key] = repaired(self._layers[name].weight, inputs, self._moments[name])
        return self._solved[key]


def repaired(weight: Tensor, inputs: Tensor, moments: InputMoments) -> tuple[Tensor, Tensor]:
    """Least squares with a ridge: (O, C, ...) and the indices of k kept inputs to (O, k, ...) and a shift (O,).

    The weights W' minimise E|W x - W' x_kept|^2 + r |W' - W_kept|^2 around the means; the shift is what that leaves.
    """
    flat = weight.detach().flatten(1).double()
    window = flat.shape[1] // weight.shape[1]
    columns = (inputs[:, None] * window + torch.arange(window)).flatten()
    covariance = moments.covariance.double()
    among = covariance[columns][:, columns]
    ridge = RIDGE * float(covariance.diagonal().mean()) + torch.finfo(torch.float32).tiny
    target = flat @ covariance[:, columns] + ridge * flat[:, columns]
    system = among + ridge * torch.eye(len(columns), dtype=torch.float64)
    solution = torch.cholesky_solve(target.T, torch.linalg.cholesky(system)).T
    mean = moments.mean.double()
    shift = flat @ mean - solution @ mean[columns]
    return solution.to(weight.dtype).view(len(weight), len(inputs), *weight.shape[2:]), shift.to(weight.dtype)


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Conv2d | nn.Linear], images: Tensor
) -> dict[str, InputMoments]:
    """The moments of what `layers` see when `model` classifies `images`."""
    # The mean output of these is put right later: by their own bias, or by the BatchNorm that reads them.
    shiftable = {
        *normalised_layers(model, images[:1]),
        *(name for name, layer in layers.items() if layer.bias is not None),
    }
    # By layer: windows so far, an origin near their mean (or rounding would eat a small variance), and sums around it.
    sums: dict[str, tuple[int, Tensor, Tensor, Tensor]] = {}

    def gather(name: str, x: Tensor, _outputs: Tensor) -> None:
        count, origin, first, second = sums.get(name, (0, torch.zeros(1), torch.zeros(1), torch.zeros(1)))
        if count >= SAMPLES:
            return
        windows = _windows(layers[name], x, most=SAMPLES - count)
        if count == 0 and name in shiftable:
            origin = windows.mean(0)
        windows = windows - origin
        sums[name] = (count + len(windows), origin, first + windows.sum(0), second + windows.T @ windows)

    with watched(layers, gather), evaluation_mode(model), torch.inference_mode():
        for batch in even_batches(images):
            model(batch)
    moments = {}
    for name, (count, origin, first, second) in sums.items():
        mean = first / count if name in shiftable else torch.zeros_like(first)
        moments[name] = InputMoments((origin + mean).clone(), (second / count - mean.outer(mean)).clone())
    return moments


def _windows(layer: nn.Conv2d | nn.Linear, x: Tensor, *, most: int) -> Tensor:
    """What the filters see: (windows, n). Of more than `most`, whole images from the front."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)[:most].float()
    some = x[: max(1, -(-most // _positions(layer, x)))].float()
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    sees = F.unfold(_padded(layer, some), kernel, dilation=dilation, stride=stride)
    return sees.transpose(1, 2).flatten(0, 1)


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer's input with its border as the layer itself makes it: of zeros, it goes by `padding` as that is now."""
    if layer.padding_mode != "zeros":
        return F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    if isinstance(layer.padding, str):
        return F.pad(x, layer._reversed_padding_repeated_twice)
    rows, columns = pair(layer.padding)
    return F.pad(x, (columns, columns, rows, rows))


def _positions(layer: nn.Conv2d, x: Tensor) -> int:
    rows, columns = pair(layer.stride)
    return max(1, (x.shape[2] // rows) * (x.shape[3] // columns))


def _is_repairable(module: nn.Module) -> bool:
    return is_plain(module, nn.Conv2d, nn.Linear) and getattr(module, "groups", 1) == 1


def _shared_weights(model: nn.Module) -> set[int]:
    """Tensors that several layers have: one solution would be written over the other."""
    counts = Counter(id(module._parameters["weight"]) for module in model.modules() if "weight" in module._parameters)
    return {tensor for tensor, count in counts.items() if count > 1}
