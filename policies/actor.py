"""A trained actor at work: NumPy and ONNX Runtime only, so it can be applied where no torch is installed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoprune import __version__
from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.envs.rollout import roll_out as roll_out_in_env
from autoprune.errors import InputError
from autoprune.files import read_json
from autoprune.measure.latency import make_session
from autoprune.onnx_runtime import onnxruntime
from autoprune.policy import PruningPolicy
from autoprune.search.problem import PruningProblem

ACTOR_FILE, INFO_FILE = "agent.onnx", "agent.json"
SCHEMA = 1
MIN_VERSION = "0.1.0"  # the first version whose observations mean what they mean today


@dataclass(frozen=True)
class Actor:
    """A deterministic actor; `searcher` is the agent that trained it."""

    searcher: str
    session: onnxruntime.InferenceSession

    def act(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations `(batch, fields)` to actions `(batch,)` in [-1, 1]."""
        (actions,) = self.session.run(["action"], {"observation": observations})
        return np.asarray(actions, dtype=np.float32).reshape(-1)


def load_actor(folder: Path) -> Actor:
    """Read `agent.json` and `agent.onnx`; `InputError` names the file and what is wrong with it."""
    info_path, actor_path = folder / INFO_FILE, folder / ACTOR_FILE
    info = read_json(info_path)
    try:
        schema, searcher, fields = info["schema"], str(info["searcher"]), list(info["observation"])
        needs = tuple(int(part) for part in str(info["min_version"]).split("."))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{info_path}: not the description of an agent ({error!r})") from None
    if schema != SCHEMA:
        raise InputError(f"{info_path}: schema {schema} is not supported (this version reads {SCHEMA})")
    if needs > tuple(int(part) for part in __version__.split(".")[:3]):
        raise InputError(f"{info_path}: needs autoprune {info['min_version']} or later (this is {__version__})")
    if fields != list(OBSERVATION_FIELDS):
        differing = sorted(set(fields) ^ set(OBSERVATION_FIELDS)) or "their order"
        raise InputError(f"{info_path}: the agent was trained on other observation fields; they differ in {differing}")
    session = make_session(actor_path, threads=1)
    shape = session.get_inputs()[0].shape
    if [value.name for value in session.get_inputs()] != ["observation"] or shape[1:] != [len(OBSERVATION_FIELDS)]:
        raise InputError(f"{actor_path}: not an actor for {len(OBSERVATION_FIELDS)} observation fields")
    return Actor(searcher, session)


def roll_out(actor: Actor, problem: PruningProblem) -> PruningPolicy:
    """The policy that the actor decides on; it meets the problem's limits and costs no evaluation."""
    (rolled,) = roll_out_in_env(problem, lambda _, observations: actor.act(observations))
    return rolled.policy
