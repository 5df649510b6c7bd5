"""A trained actor, and how it is written: an ONNX file that runs without torch, and a JSON file that describes it."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.foundation.files import atomic_path, write_json
from autoprune.policies.actor import ACTOR_FILE, INFO_FILE, MIN_VERSION, SCHEMA

OPSET = 17


@dataclass(frozen=True)
class TrainingInfo:
    """Where an actor comes from; kept in `agent.json` for people, reports, and those who apply it elsewhere.

    `ratios` are the limits as shares of the original's cost, by metric, and `params` those of the original.
    """

    model: str
    target: str
    evaluations: int
    best_reward: float
    ratios: Mapping[str, float] | None = None
    params: int | None = None


def exported_network(actor: nn.Module) -> nn.Module:
    """The network of a `TrainedActor`: a learner's actor, its actions clipped to [-1, 1]."""
    return nn.Sequential(actor, nn.Hardtanh()).eval()


@dataclass(frozen=True)
class TrainedActor:
    """`network` maps observations (batch, fields) float32 to actions (batch, 1) in [-1, 1]; its training is over."""

    searcher: str
    network: nn.Module

    def save(self, folder: Path, info: TrainingInfo) -> None:
        """Write `agent.onnx` and `agent.json` into `folder`; each is whole or absent, the description comes last."""
        example = torch.zeros(1, len(OBSERVATION_FIELDS))
        with atomic_path(folder / ACTOR_FILE) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that is quick is no longer the default
            torch.onnx.export(
                self.network,
                (example,),
                str(temporary),
                opset_version=OPSET,
                dynamo=False,
                input_names=["observation"],
                output_names=["action"],
                dynamic_axes={"observation": {0: "batch"}, "action": {0: "batch"}},
            )
        description = {
            "schema": SCHEMA,
            "searcher": self.searcher,
            "observation": list(OBSERVATION_FIELDS),
            "min_version": MIN_VERSION,
            "training": {key: value for key, value in asdict(info).items() if value is not None},
        }
        write_json(folder / INFO_FILE, description)
