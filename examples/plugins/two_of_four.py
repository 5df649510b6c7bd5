"""A kind of option: of each four weights in a row, the two largest stay (N:M sparsity, Mishra et al. 2021).

`search.options: [examples/plugins/two_of_four.py:TwoOfFour]`; ONNX Runtime's CPU kernels gain no time by it.
"""

from collections.abc import Sequence

from torch import nn

IN_A_ROW = 4  # neighbours along the inputs that a filter reads


class TwoOfFour:
    name = "2:4"

    def sizes(self, layer_name: str, layer: nn.Module) -> Sequence[int]:
        """Convolutions that read some channels, and linear layers; not the network's first, nor depthwise ones."""
        weight = layer.weight
        return (2, IN_A_ROW) if weight[0].numel() >= 32 and weight.shape[1] >= IN_A_ROW else ()

    def apply(self, layer: nn.Module, size: int) -> None:
        rows = layer.weight.data.flatten(1).clone()  # (filters, inputs of each), whatever lies where in memory
        whole = rows.shape[1] // IN_A_ROW * IN_A_ROW  # what is left over stays
        fours = rows[:, :whole].reshape(-1, IN_A_ROW)
        gone = fours.abs().argsort(dim=1)[:, : IN_A_ROW - size]
        rows[:, :whole] = fours.scatter(1, gone, 0.0).reshape(len(rows), whole)
        layer.weight.data.copy_(rows.reshape(layer.weight.shape))

    def left(self, size: int) -> float:
        return size / IN_A_ROW
