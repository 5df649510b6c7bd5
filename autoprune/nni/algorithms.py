"""The tuners and assessors of NNI 3.0: which work, what space each takes, and why the others are refused."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.config.nni import AGENT_TUNER
from autoprune.errors import ConfigError

SpaceType = Literal["choice", "quniform", "randint"]
OWN = "path/file.py:Class"


@dataclass(frozen=True)
class Tuner:
    """One of NNI's: its settings beside the user's, and how it likes ordered whole numbers best."""

    space: SpaceType
    settings: Mapping[str, Any]
    remembers: bool = True  # after `resume`, what was found before


MAXIMIZE = {"optimize_mode": "maximize"}
TUNERS: Mapping[str, Tuner] = {
    "TPE": Tuner("quniform", MAXIMIZE),
    "Evolution": Tuner("quniform", MAXIMIZE, remembers=False),
    "Random": Tuner("randint", {}),
    "GridSearch": Tuner("choice", {}),
    "GP": Tuner("quniform", MAXIMIZE),
    "Metis": Tuner("quniform", MAXIMIZE),
    "PBT": Tuner("quniform", MAXIMIZE, remembers=False),
}
ASSESSORS: Mapping[str, Mapping[str, Any]] = {
    "Medianstop": {"optimize_mode": "maximize", "start_step": 1},
    "Curvefitting": {"epoch_num": 3, "start_step": 1},
}
SEEDED = ("TPE", "Random")  # the others take no seed
REFUSED: Mapping[str, str] = {
    "Anneal": "fails with the numpy of today (NNI 3.0 is archived)",
    "TPE_legacy": "fails with the numpy of today; take TPE",
    "Hyperband": "is broken in NNI 3.0: it compares texts with numbers",
    "BOHB": "is broken in NNI 3.0: it compares texts with numbers",
    "SMAC": "cannot be installed any more",
    "PPO": "wants TensorFlow, and is for architectures; take agent with search.agent=ppo",
    "DNGO": "wants pybnn, which is gone",
    "NetworkMorphism": "is for architectures, and takes no space",
    "RegularizedEvolutionTuner": "is for architectures; take Evolution",
    "Batch": "takes a list of whole configurations, and no space",
}


def tuner_named(name: str) -> Tuner:
    """Raises `ConfigError` for one that is broken, with the reason, or unknown."""
    if name in REFUSED:
        raise ConfigError(f"nni.tuner={name}: {REFUSED[name]}; choose {', '.join((AGENT_TUNER, *TUNERS))}")
    if name not in TUNERS:
        raise ConfigError(f"nni.tuner={name}: unknown; choose {', '.join((AGENT_TUNER, *TUNERS))}, or {OWN}")
    return TUNERS[name]


def space_type(name: str) -> SpaceType:
    """In what form a tuner gets the numbers of options: ordered, where it can make use of that. Raises `ConfigError` as
    `tuner_named` does."""
    return "quniform" if name == AGENT_TUNER or ":" in name else tuner_named(name).space


def require_nni() -> Any:
    """The module `nni`. Raises `ConfigError` that names the extra if it is not installed."""
    try:
        return importlib.import_module("nni")
    except ImportError as error:
        raise ConfigError(
            f"nni: NNI is not installed ({error}); install it with `pip install autoprune[nni]`"
        ) from None
