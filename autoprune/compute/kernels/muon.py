"""SGD that steps along orthogonalised momentum at convolutions (Muon: Jordan et al. 2024).

`torch.optim.Muon` takes matrices alone, and steps of a size that does not depend on the weights: a BatchNorm behind a
convolution undoes any scale, so that a step says something only relative to them.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 5
# Jordan et al. 2024: s -> A s + B s^3 + C s^5, five times, takes all between 0.01 and 1 to between 0.68 and 1.14.
A, B, C = 3.4445, -4.7750, 2.0315


class MuonSGD(torch.optim.SGD):
    """SGD; in groups with `muon: True`, `lr` is the share of a weight's norm (Frobenius) by which a step moves it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            group.setdefault("muon", False)  # a training that SGD began

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["muon"]:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._turn(weight, group["lr"], group["momentum"])
                        weight.grad = None  # SGD passes it over
        return super().step(closure)

    def _turn(self, weight: Tensor, share: float, momentum: float) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].mul_(momentum).add_(weight.grad)
        ahead = weight.grad.add(average, alpha=momentum)  # type: ignore[union-attr]  # Nesterov's
        # As weights lie in memory, channels last: the order of columns changes nothing.
        rows = ahead.permute(0, 2, 3, 1)
        direction = orthogonalised(rows.flatten(1)).reshape(rows.shape).permute(0, 3, 1, 2)
        weight.sub_(direction, alpha=share * float(weight.norm() / direction.norm().clamp_min(1e-12)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """(m, n) of the same singular vectors, with singular values near 1, but for those below a hundredth of the norm.

    Newton-Schulz iteration on the smaller Gram matrix: the long side is met twice, not ten times.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    gram = matrix @ matrix.T
    square_norm = gram.trace().clamp_min(1e-24)
    gram /= square_norm
    factor = torch.eye(len(gram), dtype=gram.dtype)
    for _ in range(ROUNDS):
        polynomial = B * gram + C * gram @ gram
        polynomial.diagonal().add_(A)
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    return factor @ matrix / square_norm.sqrt()


def hidden_convolutions(model: nn.Module, channels: int) -> frozenset[str]:
    """The names of the weights of convolutions over all channels, but for those that see the image's `channels`."""
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels > channels
    )
