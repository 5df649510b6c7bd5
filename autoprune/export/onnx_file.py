"""ONNX out: dynamic batch, subnormal weights flushed, checked, and equal to PyTorch on real images."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from autoprune.data import DataInfo
from autoprune.errors import RunError
from autoprune.export.graph_cleanup import drop_added_zeros
from autoprune.export.subnormals import flush_subnormals
from autoprune.files import atomic_path
from autoprune.measure.latency import make_session

OPSET = 17
INPUT_NAME, OUTPUT_NAME = "images", "logits"
MEAN_KEY, STD_KEY = "autoprune.mean", "autoprune.std"  # in a file's metadata


@dataclass(frozen=True)
class ExportReport:
    onnx_bytes: int
    flushed_subnormals: int


def export_onnx(model: nn.Module, path: Path, info: DataInfo) -> ExportReport:
    """Write `model` for normalised images (N, C, H, W) float32, any N; the file is whole or absent.

    BatchNorm is folded into the convolutions. Pixel mean, standard deviation and class names stand in the file's
    metadata. Raises `RunError` if the model cannot be exported.
    """
    example = torch.zeros(2, *info.input_shape)
    with atomic_path(path) as temporary:
        try:
            with warnings.catch_warnings():
                # The exporter that this version calls is marked as old; the new one takes ten times as long.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    model.eval(),
                    (example,),
                    str(temporary),
                    input_names=[INPUT_NAME],
                    output_names=[OUTPUT_NAME],
                    dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
                    opset_version=OPSET,
                    dynamo=False,
                )
            exported = onnx.load(str(temporary))
            drop_added_zeros(exported)
            flushed = flush_subnormals(exported)
            onnx.helper.set_model_props(exported, _metadata(info))
            onnx.checker.check_model(exported, full_check=True)
        except OSError:
            raise
        except Exception as error:  # exporter and checker raise many kinds
            raise RunError(f"{path}: the model cannot be exported to ONNX ({error})") from error
        onnx.save(exported, str(temporary))
        onnx_bytes = temporary.stat().st_size
    return ExportReport(onnx_bytes, flushed)


def parity_max_abs(model: nn.Module, path: Path, images: Tensor) -> float:
    """Largest absolute difference between PyTorch's logits and the file's, on normalised images (N, C, H, W)."""
    with torch.inference_mode():
        expected = model.eval()(images).numpy()
    actual = make_session(path, threads=1).run(None, {INPUT_NAME: images.contiguous().numpy()})[0]
    return float(np.abs(expected - np.asarray(actual)).max())


def _metadata(info: DataInfo) -> dict[str, str]:
    return {
        "autoprune.input": "float32 (N, C, H, W): (pixel / 255 - mean) / std per channel",
        MEAN_KEY: ",".join(f"{value:.6g}" for value in info.mean),
        STD_KEY: ",".join(f"{value:.6g}" for value in info.std),
        "autoprune.classes": ",".join(info.classes),
    }
