"""Timing real files in ONNX Runtime, and the statistics worked out by hand. No test holds a machine to a time."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import DataInfo
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.errors import InputError, RunError
from autoprune.measure.latency import (
    Latency,
    make_session,
    measure_interleaved,
    paired_speedup,
    peak_rss_bytes,
    session_call,
    undisturbed_ms,
)
from autoprune.measure.timing import QuietTime

INFO = DataInfo("test", ("a", "b"), 3, 16, 16, mean=(0.0,) * 3, std=(1.0,) * 3)
IMAGE = np.zeros((1, *INFO.input_shape), dtype=np.float32)
MB = 10**6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network, and one with 20 times the work and more."""
    folder = tmp_path_factory.mktemp("onnx")
    made = []
    for channels, layers in ((8, 1), (64, 4)):
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)]
        model = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *convolutions, *head)
        made.append(folder / f"{channels}.onnx")
        export_onnx(model, made[-1], INFO)
    return made[0], made[1]


def test_more_work_takes_longer(files: tuple[Path, Path]) -> None:
    small, large = measure_interleaved(files, IMAGE, threads=1, rounds=6, runs_per_round=3)
    for latency in (small, large):
        assert len(latency.round_medians_ms) == 6
        assert 0 < min(latency.round_medians_ms) <= latency.latency_ms_p50 <= max(latency.round_medians_ms)
        assert latency.latency_ms_p95 >= latency.latency_ms_p50
    assert large.latency_ms_p50 > small.latency_ms_p50
    assert large.latency_ms_quiet > small.latency_ms_quiet > 0
    assert paired_speedup(large, small).speedup > 1


def test_the_garbage_collector_is_switched_on_again(files: tuple[Path, Path]) -> None:
    assert gc.isenabled()
    measure_interleaved(files[:1], IMAGE, threads=1, rounds=1, runs_per_round=1)
    assert gc.isenabled()
    with pytest.raises(Exception, match="Got invalid dimensions"):
        measure_interleaved(files[:1], IMAGE[:, :, :4], threads=1, rounds=1, runs_per_round=1)
    assert gc.isenabled()


def latency(round_medians_ms: np.ndarray) -> Latency:
    medians = tuple(round_medians_ms.tolist())
    return Latency(
        float(np.median(round_medians_ms)), float(np.percentile(round_medians_ms, 95)), medians, min(medians)
    )


def test_a_known_ratio_is_found_through_slow_spells() -> None:
    """A round in which all is three times slower moves neither the ratio nor the interval."""
    generator = np.random.default_rng(0)
    reference = generator.normal(1.0, 0.02, 60)
    candidate = generator.normal(0.4, 0.01, 60)
    spell = np.where(np.arange(60) % 7 == 0, 3.0, 1.0)
    found = paired_speedup(latency(reference * spell), latency(candidate * spell))
    low, high = found.ci95
    assert low <= found.speedup <= high
    assert low <= 2.5 <= high
    assert high - low < 0.1
    assert found == paired_speedup(latency(reference * spell), latency(candidate * spell))


def test_without_noise_the_interval_is_the_ratio() -> None:
    found = paired_speedup(latency(np.full(5, 6.0)), latency(np.full(5, 2.0)))
    assert (found.speedup, *found.ci95) == (3.0, 3.0, 3.0)


def test_more_noise_gives_a_wider_interval() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 1, 40)
    widths = []
    for scale in (0.01, 0.1):
        found = paired_speedup(latency(1 + scale * noise), latency(np.full(40, 1.0)))
        widths.append(found.ci95[1] - found.ci95[0])
    assert widths[1] > 5 * widths[0] > 0


def test_a_session_takes_a_file_or_its_bytes(files: tuple[Path, Path]) -> None:
    for source in (files[0], files[0].read_bytes()):
        session = make_session(source, threads=1)
        assert session.get_providers() == ["CPUExecutionProvider"]
        options = session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"


def test_files_that_do_not_load_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.onnx: ONNX Runtime cannot load it"):
        make_session(tmp_path / "nowhere.onnx", threads=1)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(InputError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        make_session(broken, threads=1)
    with pytest.raises(InputError, match="model: ONNX Runtime cannot load it"):
        make_session(b"no model", threads=1)


def test_memory_is_that_of_a_fresh_process(files: tuple[Path, Path]) -> None:
    """A parent that holds half a gigabyte changes nothing."""
    alone = peak_rss_bytes(files[0], IMAGE.shape, threads=1)
    held = torch.ones(500 * MB // 4)
    beside = peak_rss_bytes(files[0], IMAGE.shape, threads=1)
    assert held.sum() > 0
    for measured in (alone, beside):
        assert 20 * MB < measured < 400 * MB
    assert abs(beside - alone) < 50 * MB


def test_the_memory_of_larger_images_is_larger(files: tuple[Path, Path]) -> None:
    one, many = (peak_rss_bytes(files[1], (count, *INFO.input_shape), threads=1) for count in (1, 512))
    assert many > one + 512 * 64 * 16 * 16 * 4  # the output of one convolution at the least


def test_a_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RunError, match=r"broken\.onnx: measuring its memory failed \(.*INVALID_PROTOBUF"):
        peak_rss_bytes(tmp_path / "broken.onnx", (1, 1), threads=1)


def test_a_session_is_called_on_its_images(files: tuple[Path, Path]) -> None:
    session = make_session(files[0], threads=1)
    images = np.random.default_rng(0).standard_normal((3, *INFO.input_shape), dtype=np.float32)
    [[expected]] = [session.run(None, {"images": images})]
    [called] = session_call(session, images)()
    assert called.shape == (3, 2)
    np.testing.assert_array_equal(called, expected)


def test_undisturbed_calls_by_hand() -> None:
    """101 calls each of 2..4 and 1..2 ms: medians 3 and 1.5, fifth percentiles 2.1 and 1.05."""
    samples = np.stack([np.linspace(2, 4, 101), np.linspace(1, 2, 101)])[:, :, None]

    def found(first: float, second: float, *, settled: bool = True) -> list[float]:
        return undisturbed_ms(samples, [QuietTime(first, 0.0, 9, settled), QuietTime(second, 0.0, 9, True)])

    assert found(2.5, 1.2) == [2.5, 1.2]
    for later in (found(3.1, 1.2), found(2.5, 1.6), found(2.5, 1.2, settled=False)):
        assert later == pytest.approx([2.1, 1.05])
