"""BatchNorm of a cut: statistics measured anew, and the whole normalisation folded into the layers before it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autoprune.compute.compute import HERE, Compute
from autoprune.pruning.branches import Nothing
from autoprune.pruning.copies import copied
from autoprune.pruning.forward_pass import evaluation_mode, normalised_layers

BATCH = 256
FOLDED_ALIKE = 1e-3  # logits of a folded model may be off by this share of their spread: rounding


def recalibrate_batchnorm(model: nn.Module, images: Tensor, compute: Compute = HERE) -> Tensor:
    """Replace the running statistics of every BatchNorm by those of `images` (N, C, H, W), in place.

    Right after a cut the statistics are those of channels that are gone, and accuracy is near chance (Li et al. 2020,
    EagleEye). The statistics are plain means over batches. Returns what the model answers on the way, (N, classes) in
    float32, each batch normalised by its own statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    answers = []
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    with torch.inference_mode(), compute.prepared_for_calibration(model):
        for number, batch in enumerate(even_batches(images), 1):
            for norm in norms:
                norm.momentum = 1 / number  # the mean so far and this batch, averaged
            answers.append(model(batch).float())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return torch.cat(answers)


def foldable_layers(model: nn.Module, images: Tensor) -> dict[str, str]:
    """`normalised_layers`, if folding them all leaves the model's answers to `images` as they are; else none.

    It does not where something else reads a layer's output too, before it is normalised.
    """
    pairs = normalised_layers(model, images[:1])
    folded = copied(model)
    fold_batchnorm(folded, pairs)
    with evaluation_mode(model), torch.inference_mode():
        before, after = model(images), folded(images)
    alike = (after - before).abs().max() <= FOLDED_ALIKE * before.std(correction=0) + torch.finfo(torch.float32).tiny
    return pairs if bool(alike) else {}


def fold_batchnorm(model: nn.Module, pairs: dict[str, str]) -> None:
    """Give the layers named in `pairs` the work of their BatchNorms, in place; for inference only.

    Layers that are gone have none.
    """
    model.eval()
    for layer, norm in pairs.items():
        convolution = model.get_submodule(layer)
        if isinstance(convolution, Nothing):
            continue
        assert isinstance(convolution, nn.Conv2d)
        read_by = cast(nn.BatchNorm2d, model.get_submodule(norm))
        folded = fuse_conv_bn_eval(convolution, read_by)
        convolution.weight, convolution.bias = folded.weight, folded.bias
        model.set_submodule(norm, nn.Identity())


def even_batches(images: Tensor) -> Sequence[Tensor]:
    """At most `BATCH` images each, evenly: BatchNorm cannot be calibrated on a last batch of one image."""
    return images.tensor_split(-(-len(images) // BATCH))
