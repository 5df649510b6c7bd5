"""A trained actor at work: NumPy and ONNX Runtime only, so it can be applied where no torch is installed."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from autoprune import __version__
from autoprune.compute.memory import memory_limited
from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.envs.rollout import roll_out as roll_out_in_env
from autoprune.errors import InputError, shown
from autoprune.foundation.files import read_json
from autoprune.runtimes.onnxruntime import make_session, onnxruntime
from autoprune.search.problem import PruningProblem
from autoprune.space.decision import Policy

ACTOR_FILE, INFO_FILE = "agent.onnx", "agent.json"
OBSERVATION_NAME, ACTION_NAME = "observation", "action"
RIGHT_ANSWER = "an actor's answer is one finite float for each observation"
FLOATS = "tensor(float)"  # ONNX Runtime's name of float32
SCHEMA = 1
MIN_VERSION = "0.1.0"  # the first version whose observations mean what they mean today
TRIED_BATCH = 3  # observations that a new actor is tried on, beside a single one
LONGEST_LIST = 1000  # characters of the fields in a message: this version's take half of that


class Training(BaseModel):
    """Where an actor comes from, as far as its description tells people, reports, and those who apply it elsewhere.

    `ratios` are the limits as shares of the original's cost, by metric, and `params` those of the original; earlier
    versions noted only the `target`, in words.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    model: str | None = None
    target: str = ""
    evaluations: int | None = None
    best_reward: float | None = None
    ratios: dict[str, float] | None = None
    params: int | None = None

    @property
    def metrics(self) -> frozenset[str]:
        """What the target limits."""
        return frozenset(re.findall(r"(\w+) <= ", self.target))


@dataclass(frozen=True)
class Actor:
    """A deterministic actor; `searcher` is the agent that trained it, `source` its file, `digest` its SHA-256."""

    searcher: str
    session: onnxruntime.InferenceSession
    source: str = ACTOR_FILE
    digest: str = ""
    training: Training = field(default_factory=Training)

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations `(batch, fields)` to actions `(batch,)`; the environment clips them to [-1, 1].

        Raises `InputError` unless the file answers one finite float for each observation.
        """
        count = len(observations)
        try:
            (actions,) = self.session.run([ACTION_NAME], {OBSERVATION_NAME: observations})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(f"{self.source}: does not run on {count} observations ({error})") from None
        if (
            not isinstance(actions, np.ndarray)
            or actions.dtype != np.float32
            or actions.shape not in ((count, 1), (count,))
        ):
            found = f"{getattr(actions, 'dtype', type(actions).__name__)} {getattr(actions, 'shape', '')}".rstrip()
            raise InputError(f"{self.source}: answers {found} to {count} observations; {RIGHT_ANSWER}")
        if not np.isfinite(actions).all():
            raise InputError(f"{self.source}: answers NaN or infinity; {RIGHT_ANSWER}; train the agent again")
        return actions.reshape(-1)


def load_actor(folder: Path) -> Actor:
    """Read `agent.json` and `agent.onnx`; `InputError` names the file and what is wrong with it.

    The network is tried on some observations, so that one that cannot answer is found before any work.
    """
    info_path, actor_path = folder / INFO_FILE, folder / ACTOR_FILE
    info = read_json(info_path)
    searcher = checked_searcher(info_path, info)
    training = _training(info.get("training"), info_path)
    tried = np.random.default_rng(0).uniform(-1.0, 1.0, (TRIED_BATCH, len(OBSERVATION_FIELDS))).astype(np.float32)
    with memory_limited():
        session = make_session(actor_path, threads=1)
        _check_signature(actor_path, session)
        digest = hashlib.sha256(actor_path.read_bytes()).hexdigest()
        actor = Actor(searcher, session, str(actor_path), digest, training)
        for observations in (np.zeros_like(tried[:1]), tried):
            actor.act(observations)
    return actor


def roll_out(actor: Actor, problem: PruningProblem) -> Policy:
    """The policy that the actor decides on; it meets the problem's limits and costs no evaluation."""
    (rolled,) = roll_out_in_env(problem, lambda _, observations: actor.act(observations))
    return rolled.policy


def checked_searcher(path: Path, info: Any) -> str:
    """The agent that `agent.json` is of, if its actor sees what this version shows."""
    try:
        schema, searcher, fields = info["schema"], info["searcher"], info["observation"]
        needs = _version(info["min_version"])
        if not isinstance(searcher, str) or not isinstance(schema, int):
            raise TypeError(f"searcher {shown(searcher)}, schema {shown(schema)}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the description of an agent ({shown(error)})") from None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {shown(schema)} is not supported (this version reads {SCHEMA})")
    if needs > _version(__version__):
        raise InputError(f"{path}: needs autoprune {'.'.join(map(str, needs))} or later (this is {__version__})")
    if fields != list(OBSERVATION_FIELDS):
        raise InputError(
            f"{path}: the agent was trained on other observation fields{_differing(fields)}: "
            f"{shown(fields, LONGEST_LIST)}; this version's are {list(OBSERVATION_FIELDS)}; train an agent with this "
            "version, or use the one that trained it"
        )
    return searcher


def _training(raw: Any, path: Path) -> Training:
    """What is told of the training; descriptions without it are fine, those that are no description are not."""
    try:
        return Training() if raw is None else Training.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("training", *first["loc"])))
        raise InputError(
            f"{path}: {where[:200]}: {first['msg']}, got {shown(first['input'])}; training must hold model (a name), "
            "params (a number) and ratios (a number for each metric)"
        ) from None


def _check_signature(path: Path, session: onnxruntime.InferenceSession) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [[value.name for value in values] for values in (inputs, outputs)]
    if names != [[OBSERVATION_NAME], [ACTION_NAME]]:
        raise InputError(
            f"{path}: not an actor: takes {shown(names[0])} and gives {shown(names[1])}, must take "
            f"{[OBSERVATION_NAME]} and give {[ACTION_NAME]}"
        )
    if inputs[0].type != FLOATS or inputs[0].shape[1:] != [len(OBSERVATION_FIELDS)]:
        raise InputError(
            f"{path}: not an actor for {len(OBSERVATION_FIELDS)} observation fields: takes {inputs[0].type} "
            f"{inputs[0].shape}"
        )
    if isinstance(inputs[0].shape[0], int):
        raise InputError(f"{path}: takes batches of {inputs[0].shape[0]} only; export it with a dynamic batch")
    if outputs[0].type != FLOATS:
        raise InputError(f"{path}: answers {outputs[0].type}; {RIGHT_ANSWER}")


def _version(text: object) -> tuple[int, ...]:
    """The first three numbers. Raises `ValueError` for a text that has none."""
    return tuple(int(part) for part in str(text).split(".")[:3])


def _differing(fields: object) -> str:
    """Which fields differ, if both are lists of names."""
    if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
        return ""
    differing = sorted(set(fields) ^ set(OBSERVATION_FIELDS))
    return f"; they differ in {shown(differing) if differing else 'their order'}"
