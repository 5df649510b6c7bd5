"""Nested dictionaries and lists with tensors in them, as JSON and tensors by name: what pickle would be used for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TENSOR = "tensor:"  # begins the text that stands for a tensor
PAIRS = "pairs"  # the one key of a dictionary that stands for one whose keys are no texts


@dataclass(frozen=True)
class TensorJson:
    """`text` is JSON, in which tensors are named; `tensors` holds them."""

    text: str
    tensors: Mapping[str, Tensor]


def to_json(value: Any) -> TensorJson:
    """Take apart dictionaries, lists, tuples, tensors and what JSON holds. Tensors are copied. Raises `TypeError` for
    anything else."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().clone().contiguous()
            return TENSOR + name
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and key != PAIRS for key in value):
                return {key: plain(each) for key, each in value.items()}
            return {PAIRS: [[plain(key), plain(each)] for key, each in value.items()]}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        if isinstance(value, str) and value.startswith(TENSOR):
            raise TypeError(f"{value!r} would be taken for a tensor")
        return value

    return TensorJson(json.dumps(plain(value)), tensors)


def from_json(text: str, tensors: Mapping[str, Tensor]) -> Any:
    """What `to_json` was given, tuples as lists; tensors are copies. Raises `LookupError` for one that is missing."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {PAIRS}:
                return {whole(key): whole(each) for key, each in value[PAIRS]}
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        if isinstance(value, str) and value.startswith(TENSOR):
            return torch.clone(tensors[value.removeprefix(TENSOR)])
        return value

    return whole(json.loads(text))
