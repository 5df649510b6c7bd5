"""Paths that a user names, and what the machine is asked for: told before any work."""

from pathlib import Path

import pytest
import torch
from small_job import net

from autoprune.compute import memory
from autoprune.compute.machine import require_batches, require_memory, require_threads, usable_cores
from autoprune.compute.memory import free_bytes
from autoprune.config import DataConfig, FinetuneConfig, RunConfig, TrainConfig
from autoprune.errors import ConfigError, InputError
from autoprune.foundation.paths import require_writable_file, require_writable_folder, user_path
from autoprune.measure.activation_memory import activation_bytes


def test_paths_are_taken_as_they_are_and_homes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/x", field="f") == tmp_path / "runs" / "x"
    assert user_path(Path("a/~b"), field="f") == Path("a/~b")
    assert user_path("é x" * 50, field="f") == Path("é x" * 50)
    assert user_path("n" * 255, field="f") == Path("n" * 255)


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "n" * 256, "é" * 128, "a/" * 2048 + "b", "~no-such-user", "\ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(InputError, match=r"^--option: "):
        user_path(name, field="--option")


def test_a_home_that_nobody_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    with pytest.raises(InputError, match="'~' is no home folder here; write the path out"):
        user_path("~/x", field="f")


def test_trying_to_write_leaves_nothing(tmp_path: Path) -> None:
    require_writable_folder(tmp_path / "not" / "yet", field="f")
    require_writable_file(tmp_path / "not" / "yet.json", field="f")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_may_be_written_again_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text("old")
    require_writable_file(path, field="f")
    assert path.read_text() == "old"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for folder in (path, path / "x", link, link / "x"):
        with pytest.raises(InputError, match="is no folder; choose another f"):
            require_writable_folder(folder, field="f")


def test_threads_are_bounded_by_the_cores() -> None:
    require_threads(usable_cores(), field="f")
    with pytest.raises(InputError, match=rf"f: {usable_cores() + 1} threads, but there are {usable_cores()} cores"):
        require_threads(usable_cores() + 1, field="f")


def test_memory_is_bounded_by_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "meminfo"
    described.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", described)
    assert free_bytes() == 2 * 2**20
    require_memory(2 * 2**20, field="f", fix="lower it")
    with pytest.raises(ConfigError, match=r"f: needs about 3\.0 GiB of memory, 0\.0 GiB are free; lower it"):
        require_memory(3 * 2**30, field="f", fix="lower it")
    described.unlink()
    assert free_bytes() is None
    require_memory(2**60, field="f", fix="lower it")


def test_memory_of_an_image_is_counted() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    counted = activation_bytes(model, (1, 8, 8))
    image, planes = 64 * 4, 4 * 64 * 4
    assert counted.largest == 2 * planes  # in and out of ReLU
    assert counted.total == (image + planes + 2 * planes + 2 * planes + planes) // 2
    assert activation_bytes(net(3).eval(), (1, 16, 16)).total < 2**20
    assert counted.of_table(100) == 100 * 24 * counted.total  # sessions of many widths are open together


def test_training_batches_are_held_against_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "meminfo"
    described.write_text("MemAvailable: 1048576 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", described)
    data = DataConfig(name="imagefolder:x", image_size=1000)
    config = RunConfig(data=data, train=TrainConfig(batch_size=16), finetune=FinetuneConfig(epochs=0))
    require_batches(config, 5, (3, 1000, 1000), is_trained=False)  # 5 * 3 * 1000 * 1000 * 64 bytes
    require_batches(config, 10**6, (3, 1000, 1000), is_trained=True)  # nothing is trained
    with pytest.raises(ConfigError, match=r"^data\.image_size=1000 and train\.batch_size=16: needs about 1\.1 GiB"):
        require_batches(config, 6, (3, 1000, 1000), is_trained=False)
