"""ONNX out: dynamic batch, subnormal weights flushed, checked, and equal to PyTorch on real images."""

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from autoprune.data import DataInfo
from autoprune.errors import RunError, lines_of
from autoprune.export.graph_cleanup import drop_added_zeros, state_pads
from autoprune.export.subnormals import flush_subnormals
from autoprune.foundation.files import atomic_path
from autoprune.models.checkpoint import extra_state_left_out
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.runtimes.runtime import Runtime

OPSET = 17
MOST_APART = 1e-3  # of logits, between a module and its file
INPUT_NAME, OUTPUT_NAME = "images", "logits"
ONNX_RUNTIME = OnnxRuntime()
MEAN_KEY, STD_KEY = "autoprune.mean", "autoprune.std"  # in a file's metadata


def export_onnx(model: nn.Module, path: Path, info: DataInfo) -> int:
    """Write `model` for normalised images (N, C, H, W) float32, any N; the file is whole or absent. How many
    subnormal weights it has as zeros.

    BatchNorm is folded into the convolutions. Pixel mean, standard deviation and class names stand in the file's
    metadata. Raises `RunError` if the model cannot be exported.
    """
    example = torch.zeros(2, *info.input_shape)
    with atomic_path(path) as temporary:
        try:
            with warnings.catch_warnings(), _silent_stdout(), extra_state_left_out(model):
                # The exporter that this version calls is marked as old; the new one takes ten times as long.
                warnings.simplefilter("ignore")
                model.eval()
                torch.onnx.export(
                    model,
                    (example,),
                    str(temporary),
                    input_names=[INPUT_NAME],
                    output_names=[OUTPUT_NAME],
                    dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
                    opset_version=OPSET,
                    dynamo=False,
                )
            exported = onnx.load(str(temporary))
            state_pads(exported)
            drop_added_zeros(exported)
            flushed = flush_subnormals(exported)
            onnx.helper.set_model_props(exported, _metadata(info))
            onnx.checker.check_model(exported, full_check=True)
        except OSError:
            raise
        except Exception as error:  # exporter and checker raise many kinds
            raise RunError(f"{path}: the model cannot be exported to ONNX ({_first_line(error)})") from error
        onnx.save(exported, str(temporary))
    return flushed


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """The exporter prints its whole graph, past Python, when it gives up; what it raises says enough."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def parity_max_abs(model: nn.Module, path: Path, images: Tensor) -> float:
    """Largest absolute difference between PyTorch's logits and the file's, on normalised images (N, C, H, W).

    Infinite where their shapes differ. Raises `RunError` if the file does not run.
    """
    return _parity(model, path, images, ONNX_RUNTIME)[0]


def check_parity(model: nn.Module, path: Path, images: Tensor, *, runtime: Runtime = ONNX_RUNTIME) -> float:
    """`parity_max_abs`; raises `RunError` above `MOST_APART`, of the logits' spread where that is more than one."""
    parity, spread = _parity(model, path, images, runtime)
    if not parity <= MOST_APART * max(1.0, spread):
        raise RunError(f"{path}: answers otherwise than the module that it was made of, by up to {parity:.3g}")
    return parity


def _parity(model: nn.Module, path: Path, images: Tensor, runtime: Runtime) -> tuple[float, float]:
    """The largest difference, and the standard deviation of the module's logits."""
    model.eval()
    with torch.inference_mode():
        expected = model(images).numpy()
    try:
        actual = np.asarray(runtime.open_model(path, threads=1)(images.contiguous().numpy()))
    except Exception as error:  # the runtime raises kinds of its own
        raise RunError(f"{path}: does not run ({lines_of(error)[-1][:200]})") from error
    if actual.shape != expected.shape:
        return math.inf, float(expected.std())
    return float(np.abs(expected - actual).max()), float(expected.std())


def _first_line(error: Exception) -> str:
    return lines_of(error)[0].partition(" Please feel free")[0][:300]


def _metadata(info: DataInfo) -> dict[str, str]:
    return {
        "autoprune.input": "float32 (N, C, H, W): (pixel / 255 - mean) / std per channel",
        MEAN_KEY: ",".join(f"{value:.6g}" for value in info.mean),
        STD_KEY: ",".join(f"{value:.6g}" for value in info.std),
        "autoprune.classes": json.dumps(info.classes, ensure_ascii=False),
    }
