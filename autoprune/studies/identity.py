"""What problem a study is of: the first worker says it, and what it measured; the others' must be the same."""

import base64
import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.config import RunConfig
from autoprune.errors import ConfigError, InputError
from autoprune.foundation.progress import say
from autoprune.prediction.energy_model import ENERGY
from autoprune.prediction.latency_model import LATENCY
from autoprune.search.problem import SearchProblem
from autoprune.store.kept import Kept
from autoprune.store.trials import TrialStore
from autoprune.studies.storage import FIELD, opened_storage, require_optuna, storage_errors

PROBLEM, MEASURED = "problem", "measured"  # attributes of a study
STEPS: tuple[Kept[Any], ...] = (LATENCY, ENERGY)  # what of a problem is measured
OF_THE_TOY = ("problem", "search.reward")
OF_A_MODEL = (
    *OF_THE_TOY,
    *("task", "model.name", "model.width", "search.min_keep", "search.drop_branches", "search.max_rungs"),
    *("measure.runtime", "measure.threads", "measure.batch_size"),
)
JOIN_S, LOOK_AGAIN_S = 10.0, 0.1  # until the one who makes a study has said what it is of
ANOTHER_NAME = "choose another search.study_name"


def check_study(config: RunConfig) -> None:
    """Raises `InputError` for a storage that cannot be opened, and for a study there that is of another problem, as far
    as the configuration tells."""
    if config.search.study is not None:
        with opened_storage(config.search.study) as storage:
            attributes = _attributes_of(storage, config.search.study_name)
            if attributes is not None and PROBLEM in attributes:
                _refuse_another(attributes[PROBLEM], _told_by(config), config.search.study_name)


def take_measured(config: RunConfig, store: TrialStore) -> None:
    """What the first worker of the study measured goes into `store`, as if this run had: all search one problem."""
    if config.search.study is None:
        return
    with opened_storage(config.search.study) as storage, storage_errors():
        attributes = _attributes_of(storage, config.search.study_name) or {}
    if MEASURED not in attributes:
        return
    try:
        found = json.loads(zlib.decompress(base64.b64decode(attributes[MEASURED])))
        steps = [(step, step.read(found[step.name])) for step in STEPS if step.name in found]
    except (ValueError, TypeError, zlib.error) as error:
        raise InputError(f"{FIELD}: {config.search.study_name}: {MEASURED}: {error}; {ANOTHER_NAME}") from None
    for step, value in steps:
        store.keep(step, value)
    say(f"{config.search.study_name}: ladders and latency are those that the study's first worker measured")


def joined_study(storage: Any, problem: SearchProblem, config: RunConfig, directions: Sequence[str]) -> Any:
    """The study of a problem, made if there is none; whoever makes it says what it is of.

    A part of a run, such as a search under corrected limits, has a study of its own, by its problem's name. Raises
    `ConfigError` for a study that is of another problem.
    """
    optuna = require_optuna(FIELD)
    name, store = config.search.study_name, problem.store
    identity = {**_told_by(config), **_told_of(problem), "directions": list(directions)}
    if store is not None and store.suffix:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        name += f"{store.suffix} {digest[:6]}"
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=list(directions))
    except optuna.exceptions.DuplicatedStudyError:
        _check_same(storage, name, identity)
        return optuna.load_study(study_name=name, storage=storage)
    if store is not None and not store.suffix:
        study.set_user_attr(MEASURED, _packed(store))
    study.set_user_attr(PROBLEM, identity)
    return study


def _check_same(storage: Any, name: str, identity: Mapping[str, Any]) -> None:
    until = time.monotonic() + JOIN_S
    while PROBLEM not in (attributes := _attributes_of(storage, name) or {}):  # it is being made
        if time.monotonic() > until:
            raise ConfigError(f"{FIELD}: the study {name!r} there is none of autoprune's; {ANOTHER_NAME}")
        time.sleep(LOOK_AGAIN_S)
    _refuse_another(attributes[PROBLEM], identity, name)


def _packed(store: TrialStore) -> str:
    """What was measured, as text that has room in any database: tables of layers are long, and much the same."""
    kept = {step.name: step.text(value) for step in STEPS if (value := store.kept(step)) is not None}
    return base64.b64encode(zlib.compress(json.dumps(kept).encode())).decode()


def _attributes_of(storage: Any, name: str) -> dict[str, Any] | None:
    """What is said of a study; None if there is none of that name."""
    for study in storage.get_all_studies():
        if study.study_name == name:
            return dict(study.user_attrs)
    return None


def _told_by(config: RunConfig) -> dict[str, Any]:
    """What must be the same for all who share a study, as far as a configuration tells it, by key."""
    found = {}
    for key in OF_THE_TOY if config.problem == "toy" else OF_A_MODEL:
        value: Any = config.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def _told_of(problem: SearchProblem) -> dict[str, Any]:
    """The rest, as the problem has it. Predictions of two machines may differ in their last bits."""
    return {
        "weights, data or scoring": problem.fingerprint,
        "options": {decision.name: list(decision.ladder) for decision in problem.decisions},
        "limits": {limit.metric: f"{limit.max_value:.6g}" for limit in problem.limits},
    }


def _refuse_another(theirs: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> None:
    if differing := [key for key, value in ours.items() if theirs.get(key) != value]:
        measured = {"options", "limits"} & set(differing)
        helps = (
            "; if another worker had measured first, go on with --resume: `autoprune search` takes over what that one "
            "measured"
        )
        raise ConfigError(
            f"{FIELD}: the study {name!r} there is of another problem ({', '.join(differing)} differ); {ANOTHER_NAME}"
            + (helps if measured else "")
        )
