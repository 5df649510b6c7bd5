"""Timing real files in ONNX Runtime, and the statistics worked out by hand. No test holds a machine to a time."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import DataInfo
from autoprune.errors import InputError, RunError, UserCodeError
from autoprune.export.onnx_file import export_onnx
from autoprune.measure.latency import measure_interleaved, planned_sittings, speedup, undisturbed_ms
from autoprune.measure.memory import measure_peak_rss_bytes
from autoprune.measure.sittings import time_in_sittings
from autoprune.measure.timing import QuietTime
from autoprune.runtimes.onnxruntime import OnnxRuntime, make_session

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
    small, large = measure_interleaved(files, IMAGE, runtime=OnnxRuntime(), threads=1, rounds=6, runs_per_round=3)
    for latency in (small, large):
        assert latency.samples_ms.shape == (6, 3)
        assert latency.blocks == 4
        assert 0 < latency.samples_ms.min() <= latency.latency_ms_p50 <= latency.samples_ms.max()
        assert latency.latency_ms_p95 >= latency.latency_ms_p50
    assert large.latency_ms_p50 > small.latency_ms_p50
    assert large.latency_ms_quiet > small.latency_ms_quiet > 0
    assert speedup(large, small).ratio > 1


def test_the_garbage_collector_is_switched_on_again(files: tuple[Path, Path]) -> None:
    assert gc.isenabled()
    measure_interleaved(files[:1], IMAGE, runtime=OnnxRuntime(), threads=1, rounds=1, runs_per_round=1)
    assert gc.isenabled()
    with pytest.raises(Exception, match="Got invalid dimensions"):
        measure_interleaved(files[:1], IMAGE[:, :, :4], runtime=OnnxRuntime(), threads=1, rounds=1, runs_per_round=1)
    assert gc.isenabled()


def test_each_sitting_loads_everything_anew() -> None:
    """Seven rounds in three sittings: 3, 2 and 2. A call knows which load it is of."""
    loaded, run = [0, 0], []

    def load_anew(which: int) -> Callable[[], None]:
        loaded[which] += 1
        mine = (which, loaded[which])
        return lambda: run.append(mine)

    def beside() -> None:
        run.append((2, 0))

    timed = time_in_sittings(
        [lambda: load_anew(0), lambda: load_anew(1)], sittings=3, rounds=7, runs=1, beside=[beside]
    )
    assert timed.samples_ms.shape == (3, 7, 1)
    assert timed.load_ms.shape == (3, 2)
    assert loaded == [3, 3]
    assert {mine for mine in run if mine[0] < 2} == {(which, load) for which in (0, 1) for load in (1, 2, 3)}
    order = [load for which, load in run if which == 0]
    assert order == sorted(order)  # what an earlier sitting loaded is not run again
    run.clear()
    for call in timed.calls:
        call()
    assert run == [(0, 3), (1, 3)]


def test_sittings_are_as_many_as_rounds_and_loading_allow() -> None:
    assert [planned_sittings(rounds, load_s=0.01) for rounds in (2, 5, 20, 30, 60, 1000)] == [2, 4, 4, 6, 10, 10]
    assert [planned_sittings(60, load_s=load_s) for load_s in (1.0, 2.0, 30.0)] == [10, 5, 4]


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
    alone = measure_peak_rss_bytes(str(files[0]), IMAGE.shape, runtime="onnxruntime", threads=1)
    held = torch.ones(500 * MB // 4)
    beside = measure_peak_rss_bytes(str(files[0]), IMAGE.shape, runtime="onnxruntime", threads=1)
    assert held.sum() > 0
    for measured in (alone, beside):
        assert 20 * MB < measured < 400 * MB
    assert abs(beside - alone) < 50 * MB


def test_the_memory_of_larger_images_is_larger(files: tuple[Path, Path]) -> None:
    one, many = (
        measure_peak_rss_bytes(str(files[1]), (count, *INFO.input_shape), runtime="onnxruntime", threads=1)
        for count in (1, 512)
    )
    assert many > one + 512 * 64 * 16 * 16 * 4  # the output of one convolution at the least


def test_a_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(RunError, match=r"broken\.onnx: measuring its memory failed \(.*INVALID_PROTOBUF"):
        measure_peak_rss_bytes(str(tmp_path / "broken.onnx"), (1, 1), runtime="onnxruntime", threads=1)


RAISING = """
class Runtime:
    name, key, device, options = "own", "own 1", "cpu", ()
    def open_model(self, model, *, threads):
        raise ValueError("first line\\nlast line")
"""


def test_what_a_user_s_runtime_raises_there_is_told_whole(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RAISING)
    own = f"{tmp_path / 'mine.py'}:Runtime"
    with pytest.raises(UserCodeError) as found:
        measure_peak_rss_bytes(str(tmp_path / "net.onnx"), (1, 1), runtime=own, threads=1)
    place = f"measure.runtime={own}: {tmp_path / 'mine.py'}, line 5"
    assert str(found.value) == f"{place}: raised ValueError: first line last line"


def test_undisturbed_calls_by_hand() -> None:
    """101 calls each of 2..4 and 1..2 ms: medians 3 and 1.5, fifth percentiles 2.1 and 1.05."""
    samples = np.stack([np.linspace(2, 4, 101), np.linspace(1, 2, 101)])[:, :, None]

    def found(first: float, second: float, *, settled: bool = True) -> list[float]:
        return undisturbed_ms(samples, [QuietTime(first, 0.0, 9, settled), QuietTime(second, 0.0, 9, True)])

    assert found(2.5, 1.2) == [2.5, 1.2]
    for later in (found(3.1, 1.2), found(2.5, 1.6), found(2.5, 1.2, settled=False)):
        assert later == pytest.approx([2.1, 1.05])
