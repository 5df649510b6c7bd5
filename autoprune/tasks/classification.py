"""Images of one class each."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from autoprune.tasks.task import PerExample


class Classification:
    """Outputs are logits (N, classes). The divergence is KL(original || candidate), in nats."""

    needs_labels = True

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        log_p, reference = F.log_softmax(outputs, dim=1), F.log_softmax(original, dim=1)
        return F.kl_div(log_p, reference, reduction="none", log_target=True).sum(1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        return {
            "top1": PerExample(outputs.argmax(1) == targets),
            "cross_entropy": PerExample(F.cross_entropy(outputs, targets, reduction="none"), higher_is_better=False),
        }

    def distillation(self, outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        # Hinton et al. 2015, section 2: gradients shrink with 1/T^2, so the term is multiplied by T^2.
        return temperature**2 * F.kl_div(
            F.log_softmax(outputs / temperature, dim=1),
            F.log_softmax(taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )


CLASSIFICATION = Classification()
