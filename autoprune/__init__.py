"""autoprune: a trained network gets smaller and faster without losing accuracy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.adaptive.file.session import AdaptiveSession
    from autoprune.api.compress import Result, compress
    from autoprune.api.surgery import Structure, cut, inspect
    from autoprune.pruning.structure import load_pruned

__version__ = "0.1.0"
__all__ = ["AdaptiveSession", "Result", "Structure", "__version__", "compress", "cut", "inspect", "load_pruned"]

# Imported when they are asked for (PEP 562): `import autoprune` stays light.
_HOMES = {
    "AdaptiveSession": "autoprune.adaptive.file.session",
    "Result": "autoprune.api.compress",
    "Structure": "autoprune.api.surgery",
    "compress": "autoprune.api.compress",
    "cut": "autoprune.api.surgery",
    "inspect": "autoprune.api.surgery",
    "load_pruned": "autoprune.pruning.structure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
