"""What an operation costs: the multiply-adds of convolutions and matrix products with weights, by their shapes."""

from collections.abc import Callable

from torch import Tensor

from autoprune.tracing.call import Call

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
UNCOUNTED = ("mv", "addmv", "dot", "vdot", "_trilinear", "_cdist_forward", "addbmm", "addr")


def counted(call: Call, *, is_weight: Callable[[Tensor], bool]) -> tuple[Tensor | None, int, str]:
    """The weight of a product, its multiply-adds for all samples, and what is left uncounted in words."""
    if call.name == "convolution":
        weight: Tensor = call.given["weight"]
        places = call.given["input"] if call.given["transposed"] else call.out
        return weight, places.numel() * weight[0].numel(), ""
    if call.name in PRODUCTS:
        a, b = call.tensors()[-2:]
        if is_weight(a) and is_weight(b):
            return None, 0, "a product of weights"
        if is_weight(a) or is_weight(b):
            return a if is_weight(a) else b, call.out.numel() * a.shape[-1], ""
        return None, 0, "a product without weights" if call.depends(a) or call.depends(b) else ""
    if call.name in UNCOUNTED:
        return None, 0, call.name
    return None, 0, "attention's products" if call.name.startswith("_scaled_dot_product") else ""
