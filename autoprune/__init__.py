"""autoprune: a trained network gets smaller and faster without losing accuracy."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.adaptive.session import AdaptiveSession
    from autoprune.api import Result, compress
    from autoprune.pruning.structure import load_pruned
    from autoprune.surgery import Structure, cut, inspect

__version__ = "0.1.0"
__all__ = ["AdaptiveSession", "Result", "Structure", "__version__", "compress", "cut", "inspect", "load_pruned"]

# Imported when they are asked for (PEP 562): `import autoprune` stays light.
_HOMES = {
    "AdaptiveSession": "autoprune.adaptive.session",
    "Result": "autoprune.api",
    "Structure": "autoprune.surgery",
    "compress": "autoprune.api",
    "cut": "autoprune.surgery",
    "inspect": "autoprune.surgery",
    "load_pruned": "autoprune.pruning.structure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
