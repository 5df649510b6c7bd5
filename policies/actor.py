"""A trained actor at work: NumPy and ONNX Runtime only, so it can be applied where no torch is installed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autoprune import __version__
from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.envs.rollout import roll_out as roll_out_in_env
from autoprune.errors import InputError
from autoprune.files import read_json
from autoprune.measure.latency import make_session
from autoprune.policy import PruningPolicy
from autoprune.search.problem import PruningProblem

ACTOR_FILE, INFO_FILE = "agent.onnx", "agent.json"
SCHEMA = 1
MIN_VERSION = "0.1.0"  # the first version whose observations mean what they mean today
TRIED = 3  # observations that an actor has to answer when it is loaded
SHOWN = 400  # characters of what a file holds, in a message
AGAIN = "train the agent again with `autoprune search`"


@dataclass(frozen=True)
class Training:
    """What an actor was trained for, as far as its description tells.

    `ratios` are the limits as shares of the original's cost, by metric; earlier versions noted only their `metrics`.
    """

    model: str | None = None
    params: int | None = None
    ratios: Mapping[str, float] | None = None
    metrics: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Actor:
    """A deterministic actor; `searcher` is the agent that trained it, `digest` the SHA-256 of its file."""

    searcher: str
    session: onnxruntime.InferenceSession
    path: Path
    digest: str
    training: Training

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations `(batch, fields)` to actions `(batch,)` in [-1, 1].

        Raises `InputError` if there are other fields than it was trained on, or it answers anything but a finite number
        for each observation.
        """
        if observations.ndim != 2 or observations.shape[1] != len(OBSERVATION_FIELDS):
            raise InputError(
                f"{self.path}: was trained on {len(OBSERVATION_FIELDS)} observation fields and is shown an array of "
                f"shape {observations.shape}; pass (batch, {len(OBSERVATION_FIELDS)}), as `observe` makes them"
            )
        try:
            (actions,) = self.session.run(["action"], {"observation": np.asarray(observations, dtype=np.float32)})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(f"{self.path}: ONNX Runtime cannot run it ({_cut(str(error))})") from None
        count = len(observations)
        if (
            not isinstance(actions, np.ndarray)
            or actions.dtype != np.float32
            or actions.shape
            not in (
                (count,),
                (count, 1),
            )
        ):
            given = f"{getattr(actions, 'dtype', type(actions))} of shape {getattr(actions, 'shape', None)}"
            raise InputError(f"{self.path}: answers {given} to {count} observations, not a float32 each; {AGAIN}")
        if not np.isfinite(actions).all():
            raise InputError(f"{self.path}: answers NaN or infinity, so its training went wrong; {AGAIN}")
        return np.clip(actions.reshape(-1), -1.0, 1.0)


def load_actor(folder: Path) -> Actor:
    """Read `agent.json` and `agent.onnx`; `InputError` names the file and what is wrong with it."""
    info_path, actor_path = folder / INFO_FILE, folder / ACTOR_FILE
    info = read_json(info_path)
    try:
        schema, searcher, fields = info["schema"], info["searcher"], info["observation"]
        needs = tuple(int(part) for part in str(info["min_version"]).split("."))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{info_path}: not the description of an agent ({_cut(repr(error))})") from None
    if schema != SCHEMA:
        raise InputError(f"{info_path}: schema {_cut(str(schema))} is not supported (this version reads {SCHEMA})")
    if not isinstance(searcher, str) or not searcher:
        raise InputError(f"{info_path}: not the description of an agent (searcher must be a name)")
    if needs > tuple(int(part) for part in __version__.split(".")[:3]):
        raise InputError(f"{info_path}: needs autoprune {info['min_version']} or later (this is {__version__})")
    _check_fields(fields, info_path)
    training = _training(info.get("training"), info_path)
    session = make_session(actor_path, threads=1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [value.name for value in inputs] != ["observation"] or inputs[0].shape[1:] != [len(OBSERVATION_FIELDS)]:
        raise InputError(f"{actor_path}: not an actor for {len(OBSERVATION_FIELDS)} observation fields; {AGAIN}")
    if [value.name for value in outputs] != ["action"]:
        names = _cut(str([value.name for value in outputs]))
        raise InputError(f"{actor_path}: not an actor: its outputs are {names}, not ['action']; {AGAIN}")
    actor = Actor(searcher, session, actor_path, hashlib.sha256(actor_path.read_bytes()).hexdigest(), training)
    for value in np.linspace(-1.0, 1.0, TRIED, dtype=np.float32):
        actor.act(np.full((1, len(OBSERVATION_FIELDS)), value, dtype=np.float32))
    return actor


def roll_out(actor: Actor, problem: PruningProblem) -> PruningPolicy:
    """The policy that the actor decides on; it meets the problem's limits and costs no evaluation.

    Raises `InputError` if the actor's answer to an observation is no finite number.
    """
    (rolled,) = roll_out_in_env(problem, lambda _, observations: actor.act(observations))
    return rolled.policy


def _check_fields(fields: Any, path: Path) -> None:
    ours = list(OBSERVATION_FIELDS)
    if fields == ours:
        return
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        raise InputError(
            f"{path}: observation must be the list of the fields' names, got {_cut(repr(fields))}; this version's are "
            f"{', '.join(ours)}; {AGAIN}"
        )
    differing = sorted(set(fields) ^ set(ours)) or "their order"
    raise InputError(
        f"{path}: the agent was trained on other observation fields; they differ in {_cut(str(differing))}. Its "
        f"fields: {_cut(', '.join(fields))}. This version's: {', '.join(ours)}. {AGAIN[0].upper()}{AGAIN[1:]}"
    )


def _training(raw: Any, path: Path) -> Training:
    """What is told of the training; descriptions without it are fine, those that are no description are not."""
    if raw is None:
        return Training()
    try:
        model, params, ratios = raw.get("model"), raw.get("params"), raw.get("ratios")
        right = (
            isinstance(model, str | None)
            and isinstance(params, int | None)
            and (ratios is None or all(isinstance(ratio, int | float) for ratio in ratios.values()))
        )
        metrics = frozenset(re.findall(r"(\w+) <= ", str(raw.get("target", ""))))
    except AttributeError:
        right = False
    if not right:
        raise InputError(
            f"{path}: training must hold model (a name), params (a number) and ratios (a number for each metric), got "
            f"{_cut(repr(raw))}"
        )
    return Training(model, params, ratios, metrics)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
