"""A trained actor, and how it is written: an ONNX file that runs without torch, and a JSON file that describes it."""

import warnings
from pathlib import Path

import torch
from torch import nn

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.foundation.files import atomic_path, write_json
from autoprune.policies.actor import ACTION_NAME, ACTOR_FILE, INFO_FILE, MIN_VERSION, OBSERVATION_NAME, SCHEMA, Training

OPSET = 17


def save_actor(folder: Path, actor: nn.Module, training: Training, *, searcher: str) -> None:
    """Write `agent.onnx` and `agent.json` into `folder`; each is whole or absent, the description comes last.

    The file is the learner's deterministic `actor`, its actions clipped to [-1, 1]: observations (batch, fields)
    float32 to actions (batch, 1).
    """
    network, example = nn.Sequential(actor, nn.Hardtanh()).eval(), torch.zeros(1, len(OBSERVATION_FIELDS))
    with atomic_path(folder / ACTOR_FILE) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that is quick is no longer the default
        torch.onnx.export(
            network,
            (example,),
            str(temporary),
            opset_version=OPSET,
            dynamo=False,
            input_names=[OBSERVATION_NAME],
            output_names=[ACTION_NAME],
            dynamic_axes={OBSERVATION_NAME: {0: "batch"}, ACTION_NAME: {0: "batch"}},
        )
    description = {
        "schema": SCHEMA,
        "searcher": searcher,
        "observation": list(OBSERVATION_FIELDS),
        "min_version": MIN_VERSION,
        "training": training.model_dump(exclude_none=True),
    }
    write_json(folder / INFO_FILE, description)
