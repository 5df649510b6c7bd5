"""What a layer is made of: for each kind, the tensors that hold its outputs and inputs, and the numbers beside them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Axis = str
"""A side of a layer, "out" or "in"; of a bare parameter or buffer, one of its dimensions: "dim0", "dim1", ..."""
SIDES: tuple[Axis, Axis] = ("out", "in")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)


@dataclass(frozen=True)
class LayerKind:
    """`tensors` gives, for each side, the dimension of each tensor that lies along it, `sizes` the attribute that
    states its channels."""

    tensors: Mapping[Axis, Mapping[str, int]]
    sizes: Mapping[Axis, str]


_VECTORS = {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
_WEIGHTS_IN = {f"weight_ih_l0{end}": 1 for end in ("", "_reverse")}
_CHANNELS = {"out": "out_channels", "in": "in_channels"}
CONVOLUTION = LayerKind({"out": {"weight": 0, "bias": 0}, "in": {"weight": 1}}, _CHANNELS)
TRANSPOSED_CONVOLUTION = LayerKind({"out": {"weight": 1, "bias": 0}, "in": {"weight": 0}}, _CHANNELS)
DEPTHWISE = LayerKind({"out": {"weight": 0, "bias": 0}}, _CHANNELS)
LINEAR = LayerKind(CONVOLUTION.tensors, {"out": "out_features", "in": "in_features"})
NORM = LayerKind({"out": _VECTORS}, {"out": "num_features"})
KINDS: tuple[tuple[tuple[type[nn.Module], ...], LayerKind], ...] = (
    (CONVOLUTIONS, CONVOLUTION),
    (TRANSPOSED, TRANSPOSED_CONVOLUTION),
    ((nn.Linear,), LINEAR),
    (NORMS, NORM),
    ((nn.Embedding,), LayerKind({"out": {"weight": 1}}, {"out": "embedding_dim"})),
    ((nn.PReLU,), LayerKind({"out": {"weight": 0}}, {"out": "num_parameters"})),
    (RECURRENT, LayerKind({"in": _WEIGHTS_IN}, {"in": "input_size"})),
)


def kind_of(module: nn.Module) -> LayerKind | None:
    """None: its tensors are taken one by one."""
    if is_filterwise(module):
        return DEPTHWISE
    return next((kind for types, kind in KINDS if isinstance(module, types)), None)


def is_depthwise(module: nn.Module) -> bool:
    """One filter for each channel. A convolution of one input channel is not depthwise: its outputs are free."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_filterwise(module: nn.Module) -> bool:
    """A convolution of any number of dimensions whose filters read one channel each."""
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and 1 < module.groups == module.in_channels


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is one of these kinds and does what they do: no forward of its own, no weight that is made of
    others, no hook."""
    return any(
        isinstance(module, kind)
        and type(module).forward is kind.forward
        and getattr(type(module), "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        and isinstance(module._parameters.get("weight"), nn.Parameter | None)
        and "weight" in module._parameters
        and not (module._forward_pre_hooks or module._forward_hooks)
        for kind in kinds
    )


def is_resized(module: nn.Module, field: str) -> bool:
    """Whether a tensor of a module follows from its kind and its sides."""
    kind = kind_of(module)
    return kind is not None and any(field in tensors for tensors in kind.tensors.values())


def layer_sides(module: nn.Module) -> tuple[int, int]:
    """(output channels, input channels) of a known layer; where one side is the other, both are; 0 outputs of one whose
    outputs are never cut."""
    kind = kind_of(module)
    assert kind is not None, type(module)
    out = int(getattr(module, kind.sizes["out"])) if "out" in kind.sizes else 0
    return out, int(getattr(module, kind.sizes["in"])) if "in" in kind.sizes else out


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module itself, by field."""
    own = {**module._parameters, **module._buffers}
    return {field: tensor for field, tensor in own.items() if tensor is not None}
