"""Searches as experiments of NNI 3.0: its tuners and its web page, with our problem, trials and artefacts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.nni.tuner import AgentTuner

__all__ = ["AgentTuner"]


def __getattr__(name: str) -> Any:
    """The tuner, imported when it is asked for (PEP 562): trials start without NNI."""
    if name != "AgentTuner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autoprune.nni.tuner import AgentTuner

    return AgentTuner
