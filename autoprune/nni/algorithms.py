"""The tuners and assessors of NNI 3.0: which work, what space each takes, and why the others are refused."""

import contextlib
import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoprune.config.nni import AGENT_TUNER, REFUSED
from autoprune.errors import ConfigError, shown
from autoprune.foundation.factories import check_call, load_factory

SpaceType = Literal["choice", "quniform", "randint"]
OWN = "path/file.py:Class"
SEVERAL = 8  # options of a decision that a tuner is tried on


@dataclass(frozen=True)
class Tuner:
    """One of NNI's: its settings beside the user's, and how it likes ordered whole numbers best."""

    space: SpaceType
    settings: Mapping[str, Any]
    remembers: bool = True  # after `resume`, what was found before: it takes that from NNI


MAXIMIZE = {"optimize_mode": "maximize"}
# Where GP and Metis begin to look for the best proposal: from as many places as they do by themselves, 250 and 600, one
# takes a minute.
FEW_STARTS = {"selection_num_starting_points": 10}
TUNERS: Mapping[str, Tuner] = {
    "TPE": Tuner("quniform", MAXIMIZE),
    "Evolution": Tuner("quniform", MAXIMIZE, remembers=False),
    "Random": Tuner("randint", {}),
    "GridSearch": Tuner("choice", {}),
    "GP": Tuner("quniform", {**MAXIMIZE, "selection_num_warm_up": 10_000, **FEW_STARTS}),
    "Metis": Tuner("choice", {**MAXIMIZE, **FEW_STARTS}),
    "PBT": Tuner("quniform", MAXIMIZE, remembers=False),
}
ASSESSORS: Mapping[str, Mapping[str, Any]] = {
    "Medianstop": {"optimize_mode": "maximize", "start_step": 1},
    "Curvefitting": {"epoch_num": 3, "start_step": 1},
}
MINIMIZERS = {  # who asks SciPy where a proposal is best
    "GP": "nni.algorithms.hpo.gp_tuner.util",
    "Metis": "nni.algorithms.hpo.metis_tuner.lib_acquisition_function",
}
SEEDED = ("TPE", "Random")  # the others take no seed


def tuner_named(name: str) -> Tuner:
    """Raises `ConfigError` for one that is broken, with the reason, or unknown."""
    if name in REFUSED:
        raise ConfigError(f"nni.tuner={name}: {REFUSED[name]}; choose {', '.join((AGENT_TUNER, *TUNERS))}")
    if name not in TUNERS:
        raise ConfigError(f"nni.tuner={name}: unknown; choose {', '.join((AGENT_TUNER, *TUNERS))}, or {OWN}")
    return TUNERS[name]


def check_tuner(name: str, settings: Mapping[str, Any]) -> None:
    """Make a tuner as NNI's dispatcher will, and show it a space. Raises `ConfigError` for one that is broken or
    unknown, or takes neither these settings nor such a space, `InputError` for a file that does not give a class."""
    require_nni()
    if ":" in name:
        check_call(own_tuner(name), field=f"nni.tuner={name}", **settings)
        return
    known = tuner_named(name)
    with tempfile.TemporaryDirectory() as folder, taken("nni.settings", name, settings):
        tuner = made("tuners", name, {**known.settings, **own_settings(name, Path(folder)), **settings})
        tuner.update_search_space({"width": option_space(SEVERAL, known.space)})


def own_tuner(name: str) -> Callable[..., Any]:
    """A user's own. Raises `InputError` for a file that does not give one, `ConfigError` for an advisor of NNI's: it
    starts trials itself, and is no tuner."""
    from nni.runtime.msg_dispatcher_base import MsgDispatcherBase

    found = load_factory(name, field="nni.tuner")
    if isinstance(found, type) and issubclass(found, MsgDispatcherBase):
        raise ConfigError(f"nni.tuner={name}: is an advisor of NNI's; give a subclass of nni.tuner.Tuner")
    return found


def from_anywhere(name: str) -> str:
    """The same tuner, for NNI's dispatcher, which works in a folder of its own."""
    file, colon, factory = name.rpartition(":")
    return f"{Path(file).expanduser().resolve()}{colon}{factory}" if file.endswith(".py") else name


def check_assessor(name: str, settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for settings that an assessor does not take."""
    with taken("nni.assessor_settings", name, settings):
        made("assessors", name, {**ASSESSORS[name], **settings})


@contextlib.contextmanager
def taken(key: str, name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Whatever is raised in the block is about these settings."""
    if settings.get("optimize_mode") == "minimize":
        raise ConfigError(f"{key}: optimize_mode=minimize looks for the lowest reward; leave it out")
    try:
        with silenced():
            yield
    except Exception as error:  # NNI raises whatever it likes
        why = " ".join(str(error).split())
        raise ConfigError(f"{key}: {name} does not take {shown(dict(settings))} ({why})") from None


def made(kind: Literal["tuners", "assessors"], name: str, settings: Mapping[str, Any]) -> Any:
    """One of NNI's own, after its own check of the settings, where it has one."""
    from nni.tools.package_utils.tuner_factory import create_validator_instance

    if (validator := create_validator_instance(kind, name)) is not None:
        validator.validate_class_args(**settings)
    return unchecked(kind, name, settings)


def unchecked(kind: Literal["tuners", "assessors"], name: str, settings: Mapping[str, Any]) -> Any:
    """One of NNI's own, at work with the SciPy of today: that takes a start in one dimension alone, and its minimum is
    a number, where GP and Metis give it a row and want one back."""
    from nni.tools.package_utils import create_builtin_class_instance

    if name in MINIMIZERS:
        importlib.import_module(MINIMIZERS[name]).minimize = _minimized  # type: ignore[attr-defined]
    return create_builtin_class_instance(name, dict(settings), kind)


def _minimized(fun: Callable[..., Any], x0: Any, **settings: Any) -> Any:
    import numpy as np
    from scipy.optimize import minimize

    found = minimize(lambda *at: np.asarray(fun(*at)).item(), np.ravel(x0), **settings)
    found.fun = np.atleast_1d(found.fun)
    return found


def own_settings(name: str, folder: Path) -> Mapping[str, Any]:
    """What a tuner needs beside the user's settings: PBT a folder, for states that pruning has none of."""
    return {"all_checkpoint_dir": str(folder / "checkpoints")} if name == "PBT" else {}


def option_space(options: int, kind: SpaceType) -> dict[str, Any]:
    """The numbers 0 to `options` - 1, as NNI's search space has them."""
    if kind == "choice":
        return {"_type": kind, "_value": list(range(options))}
    return {"_type": kind, "_value": [0, options] if kind == "randint" else [0, options - 1, 1]}


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """NNI logs to stdout, and warns of what is none of the user's business."""
    logger = logging.getLogger("nni")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
