"""The peers: which library, what it is asked for, and the one knob that makes its networks faster."""

from collections.abc import Mapping
from dataclasses import dataclass

# Torch-Pruning's README rounds to a multiple of 4 or 8 for speed; at equal latency either way may win.
ROUNDINGS = {"no rounding": None, "rounded to 4": 4, "rounded to 8": 8}


@dataclass(frozen=True)
class Peer:
    """A larger `knob` prunes more. Every setting is tried; the one whose cut is closest to the original goes on."""

    name: str
    method: str
    library: str  # on PyPI
    module: str  # of this package; imported only where the library is
    knob: str
    settings: Mapping[str, int | None]
    own_environment: bool  # the library is no dependency of the project


def _torch_pruning(name: str, method: str) -> Peer:
    return Peer(name, method, "torch-pruning", "torch_pruning_peer", "pruning_ratio", ROUNDINGS, own_environment=False)


PEERS = {
    peer.name: peer
    for peer in (
        _torch_pruning("tp_uniform", "Torch-Pruning, uniform"),
        _torch_pruning("tp_global_l2", "Torch-Pruning, global L2"),
        _torch_pruning("tp_bn_scale", "Torch-Pruning, BN scale"),
        _torch_pruning("tp_isomorphic", "Torch-Pruning, isomorphic"),
        Peer(
            "fastnas",
            "NVIDIA ModelOpt, FastNAS",
            "nvidia-modelopt",
            "fastnas_peer",
            "share of FLOPs to remove",
            # Of channels and features. The default hardly shrinks a network that begins with 16 channels.
            {"divisor 32 (default)": 32, "divisor 8": 8},
            own_environment=True,
        ),
        Peer(
            "nni_l1",
            "NNI, L1 norm",
            "nni",
            "nni_peer",
            "sparse_ratio",
            {"each layer alone": 0, "dependency aware": 1},
            own_environment=True,
        ),
    )
}
