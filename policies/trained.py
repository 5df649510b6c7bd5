"""A trained actor, and how it is written: an ONNX file that runs without torch, and a JSON file that describes it."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.foundation.files import atomic_path, write_json
from autoprune.policies.actor import ACTOR_FILE, INFO_FILE, MIN_VERSION, SCHEMA, Training

OPSET = 17


def exported_network(actor: nn.Module) -> nn.Module:
    """The network of a `TrainedActor`: a learner's actor, its actions clipped to [-1, 1]."""
    return nn.Sequential(actor, nn.Hardtanh()).eval()


@dataclass(frozen=True)
class TrainedActor:
    """`network` maps observations (batch, fields) float32 to actions (batch, 1) in [-1, 1]; its training is over."""

    searcher: str
    network: nn.Module

    def save(self, folder: Path, info: Training) -> None:
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
            "training": info.model_dump(exclude_none=True),
        }
        write_json(folder / INFO_FILE, description)
