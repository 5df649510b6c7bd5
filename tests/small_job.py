"""A job that runs whole in seconds: three kinds of striped pictures and a network of three convolutions.

The command line is given this file's own functions (`small_job.py:bars`, `small_job.py:net`) and runs in a process of
its own, as users run it.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

HERE = Path(__file__)
COMMAND = (sys.executable, "-m", "autoprune.cli")
TIMEOUT_S = 550  # pytest gives a test 600
SIZE = 16
CLASSES = ("top", "bottom", "none")
CONFIG: dict[str, Any] = {
    "model": {"name": f"{HERE}:net"},
    "data": {"name": f"{HERE}:bars", "search_images": 150},
    "train": {"epochs": 4, "batch_size": 64, "learning_rate": 0.1, "augment": {"crop_padding": 1}},
    "target": {"metric": "macs", "max_ratio": 0.5},
    "search": {
        "agent": "random",
        "max_evaluations": 4,
        "score_images": 150,
        "calibration_images": 150,
        "verify_top": 1,
        "finalists": 1,
    },
    "finetune": {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "augment": {"crop_padding": 1}},
    "measure": {"rounds": 5, "runs_per_round": 2},
}


def bars(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Noise with a bright upper half, a bright lower half, or neither."""
    count, seed = {"train": (600, 0), "test": (240, 1)}[split]
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 150, (count, 1, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    images[labels == 0, :, : SIZE // 2] += 60
    images[labels == 1, :, SIZE // 2 :] += 60
    return images, labels, CLASSES


def bars_with_other_labels(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The same pictures, their labels drawn by chance."""
    images, labels, classes = bars(split)
    return images, np.random.default_rng(2).permutation(labels), classes


def coloured_bars(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    images, labels, classes = bars(split)
    return images.repeat(3, axis=1), labels, classes


def nan_bars(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    images, labels, classes = bars(split)
    return np.full(images.shape, np.nan, dtype=np.float32), labels, classes


def textures(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Six faint patterns in noise: too many for a network of one channel, easy for `net`."""
    count, seed = {"train": (900, 0), "test": (240, 1)}[split]
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE))
    patterns = {
        "rows": rows % 2,
        "columns": columns % 2,
        "checks": (rows + columns) % 2,
        "broad rows": rows // 2 % 2,
        "broad columns": columns // 2 % 2,
        "none": np.zeros((SIZE, SIZE), dtype=int),
    }
    labels = np.arange(count) % len(patterns)
    faint = 60 * np.stack(list(patterns.values()))[labels][:, None]
    images = rng.integers(0, 150, (count, 1, SIZE, SIZE)) + faint
    return images.astype(np.uint8), labels, tuple(patterns)


def net(num_classes: int, width: float = 1.0) -> nn.Module:
    """For one input channel."""
    first, second, third = (round(width * channels) for channels in (32, 48, 64))
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(third),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(2 * third, num_classes),
    )


class ResidualNet(nn.Module):
    """A stem and one block, whose branch may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
            nn.Conv2d(24, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(32, len(CLASSES)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        logits: torch.Tensor = self.head(x + self.branch(x))
        return logits


def residual_net() -> nn.Module:
    return ResidualNet()


def net_of_five_classes() -> nn.Module:
    return net(5)


def net_that_cannot_be_built() -> nn.Module:
    raise RuntimeError("no such luck")


class NetThatRaises(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a bad day\nin two lines")


def write_config(path: Path, **sections: Mapping[str, Any]) -> Path:
    """`CONFIG` with the keys of some sections changed, or with sections that it has not."""
    changed = {**CONFIG, **{name: {**CONFIG.get(name, {}), **keys} for name, keys in sections.items()}}
    path.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return path


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | variables


def autoprune(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**variables), text=True, capture_output=True, check=False, timeout=TIMEOUT_S
    )


def done(*arguments: str | Path, **variables: str) -> str:
    """What a command that must end well prints on stdout."""
    finished = autoprune(*arguments, **variables)
    assert finished.returncode == 0, f"{arguments} exited {finished.returncode}\n{finished.stderr[-3000:]}"
    return finished.stdout


@contextmanager
def started(*arguments: str | Path, stops_at: str | None = None, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """A command in the background; it is killed if it is still there when the block ends.

    With `stops_at` (see stopping.py) it goes no further than that until it gets SIGCONT.
    """
    command = COMMAND if stops_at is None else (sys.executable, str(HERE.with_name("stopping.py")), stops_at)
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(reached: Callable[[], bool], process: "subprocess.Popen[str]", timeout_s: float = TIMEOUT_S) -> None:
    """Poll until `reached`; the test fails if the process ends before."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def wait_until_stopped(process: "subprocess.Popen[str]") -> None:
    """Until `started(..., stops_at=...)` has come to that; Linux only."""
    wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", process)


def trials_in(run_dir: Path) -> int:
    path = run_dir / "trials.sqlite"
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])
        except sqlite3.OperationalError:  # the table is just being made
            return 0
