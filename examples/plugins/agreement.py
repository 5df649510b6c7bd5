"""A task without labels: a cut is as good as often as it answers as the original does.

`task: examples/plugins/agreement.py:Agreement`; labels that the data has are never looked at.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from autoprune.tasks.task import PerExample


class Agreement:
    """Outputs are scores (N, classes). The divergence is the Jensen-Shannon one, in nats: at most 0.69."""

    needs_labels = False

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        """Cross-entropy with the original's own answers, as if they were labels."""
        return F.cross_entropy(outputs, targets.argmax(1), label_smoothing=smoothing)

    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        ours, theirs = outputs.softmax(1), original.softmax(1)
        middle = ((ours + theirs) / 2).clamp_min(1e-12).log()
        halves = [F.kl_div(middle, side, reduction="none").sum(1) for side in (ours, theirs)]
        return ((halves[0] + halves[1]) / 2).clamp_min(0.0)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        return {"agreement": PerExample(outputs.argmax(1) == targets.argmax(1))}

    def distillation(self, outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        """Mean squared distance of the outputs, each image's mean taken off (Ba & Caruana 2014), at any temperature."""
        ours, theirs = (side - side.mean(1, keepdim=True) for side in (outputs, taught))
        return F.mse_loss(ours, theirs)
