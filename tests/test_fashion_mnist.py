"""Fashion-MNIST: the real 70,000 images; the order of places; downloads from a real server, whole or not at all."""

import gzip
import hashlib
import http.server
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.config import DataConfig
from autoprune.data import fashion_mnist, load_search_data, load_test_split
from autoprune.errors import DataError

NAMES = tuple(fashion_mnist.SHA256)
REAL_FOLDER = fashion_mnist.find_folder()


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data: no variable, an empty cache, no Debian package, and no way out."""
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(fashion_mnist, "URLS", (f"http://127.0.0.1:{port}/",))
    return tmp_path


@pytest.fixture
def forged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small archives in the format of Fashion-MNIST, and the table of their sums."""
    folder = tmp_path / "forged"
    folder.mkdir()
    images = bytes(16) + bytes(range(256)) * 49  # 16 images of 784 bytes
    labels = bytes(8) + bytes(range(10)) + bytes(6)
    contents = {name: images if "images" in name else labels for name in NAMES}
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "SHA256", sums)
    return folder


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder at /whole/, the same without its last 9 bytes at /short/, with other bytes at /wrong/, and
    breaks the connection midway at /broken/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{kind}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        self.server.requests.append(self.path)
        if not (self.server.folder / name).is_file():
            self.send_error(404)
            return
        body = (self.server.folder / name).read_bytes()
        sent = {"whole": body, "short": body[:-9], "wrong": gzip.compress(b"other"), "broken": body[:-9]}[kind]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body if kind == "broken" else sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(forged: Path) -> Iterator[Server]:
    with Server(forged) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def copy_archives(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(source / name, target / name)
    return target


def cached(machine: Path) -> list[str]:
    folder = machine / "cache" / "autoprune" / "fashion-mnist"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_real_data_are_whole() -> None:
    train, test = fashion_mnist.load("train"), fashion_mnist.load("test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    for split, count in ((train, 6000), (test, 1000)):
        assert torch.bincount(split.labels).tolist() == [count] * 10
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert fashion_mnist.INFO.classes[9] == "ankle boot"
    pixels = train.images.numpy() / np.float32(255)
    assert pixels.mean(dtype=np.float64) == pytest.approx(fashion_mnist.INFO.mean[0], abs=1e-4)
    assert pixels.std(dtype=np.float64) == pytest.approx(fashion_mnist.INFO.std[0], abs=1e-4)


def test_splits_of_the_real_data() -> None:
    data = load_search_data(DataConfig(max_train_images=1000))
    assert (len(data.train), len(data.search)) == (1000, 5000)
    assert torch.bincount(data.train.labels).tolist() == [100] * 10
    assert torch.bincount(data.search.labels).tolist() == [500] * 10
    again = load_search_data(DataConfig())
    assert torch.equal(again.search.images, data.search.images)
    assert len(again.train) == 55_000
    assert len(load_test_split(DataConfig())) == 10_000
    assert torch.bincount(load_test_split(DataConfig(max_test_images=50)).labels).tolist() == [5] * 10


def test_the_order_of_places(empty_machine: Path, forged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian = copy_archives(forged, empty_machine / "debian")
    assert fashion_mnist.find_folder() == debian
    cache = copy_archives(forged, empty_machine / "cache" / "autoprune" / "fashion-mnist")
    assert fashion_mnist.find_folder() == cache
    monkeypatch.setenv("AUTOPRUNE_DATA", str(forged))
    assert fashion_mnist.find_folder() == forged
    inside = copy_archives(forged, empty_machine / "many" / "fashion-mnist")
    monkeypatch.setenv("AUTOPRUNE_DATA", str(inside.parent))
    assert fashion_mnist.find_folder() == inside
    (inside / NAMES[2]).unlink()
    with pytest.raises(DataError, match=f"AUTOPRUNE_DATA={inside.parent}: it lacks some of {NAMES[0]}"):
        fashion_mnist.find_folder()


def test_a_place_that_lacks_an_archive_is_passed_over(empty_machine: Path, forged: Path) -> None:
    debian = copy_archives(forged, empty_machine / "debian")
    cache = copy_archives(forged, empty_machine / "cache" / "autoprune" / "fashion-mnist")
    (cache / NAMES[0]).unlink()
    assert fashion_mnist.find_folder() == debian


def test_archives_are_read_as_images_and_labels(
    empty_machine: Path, forged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(forged))
    train = fashion_mnist.load("train")
    assert train.images.shape == (16, 1, 28, 28)
    assert train.images[0, 0, 0].tolist() == list(range(28))
    assert train.images[1, 0, 0, 0] == 784 % 256
    assert train.labels.tolist() == [*range(10), *[0] * 6]


def test_nothing_anywhere_names_the_three_ways_out(empty_machine: Path) -> None:
    with pytest.raises(DataError) as caught:
        fashion_mnist.load("train")
    text = str(caught.value)
    for part in ("AUTOPRUNE_DATA", "apt-get install dataset-fashion-mnist", "connect to the internet", "refused"):
        assert part in text
    assert str(empty_machine / "cache" / "autoprune" / "fashion-mnist") in text
    assert cached(empty_machine) == []


def test_a_download_is_kept_and_not_repeated(
    empty_machine: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "URLS", (server.url("whole"),))
    assert len(fashion_mnist.load("train")) == 16
    assert len(fashion_mnist.load("test")) == 16
    assert cached(empty_machine) == sorted(NAMES)
    assert server.requests == [f"/whole/{name}" for name in NAMES]


@pytest.mark.parametrize("kind", ["wrong", "short", "broken"])
def test_a_second_address_helps_out(
    empty_machine: Path, server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(fashion_mnist, "URLS", (server.url(kind), server.url("whole")))
    assert len(fashion_mnist.load("train")) == 16


@pytest.mark.parametrize(
    ("kind", "part"), [("short", "corrupt archive"), ("wrong", "SHA-256"), ("broken", "IncompleteRead")]
)
def test_a_bad_download_leaves_nothing(
    empty_machine: Path, server: Server, monkeypatch: pytest.MonkeyPatch, kind: str, part: str
) -> None:
    monkeypatch.setattr(fashion_mnist, "URLS", (server.url(kind),))
    with pytest.raises(DataError, match=part) as caught:
        fashion_mnist.load("train")
    assert "AUTOPRUNE_DATA" in str(caught.value)
    assert cached(empty_machine) == []


def test_a_file_that_the_server_lacks_leaves_the_others_for_the_next_try(
    empty_machine: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "URLS", (server.url("whole"),))
    held_back = (server.folder / NAMES[-1]).rename(server.folder / "held back")
    with pytest.raises(DataError, match="404"):
        fashion_mnist.load("train")
    assert cached(empty_machine) == sorted(NAMES[:-1])
    held_back.rename(server.folder / NAMES[-1])
    assert len(fashion_mnist.load("train")) == 16
    assert len(server.requests) == len(set(server.requests)) + 1  # only the missing one twice


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def scrambled(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30] + b"\xff" * 900)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


def other_content(path: Path) -> None:
    path.write_bytes(gzip.compress(b"other"))


@pytest.mark.parametrize("damage", [truncated, flipped, scrambled, emptied, replaced, other_content])
def test_a_corrupt_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    """On a copy of the real labels."""
    folder = copy_archives(REAL_FOLDER, tmp_path / "copy")
    assert callable(damage)
    damage(folder / NAMES[3])
    monkeypatch.setenv("AUTOPRUNE_DATA", str(folder))
    with pytest.raises(DataError, match=rf"{NAMES[3]}: .*delete it and fetch it again"):
        fashion_mnist.load("test")
    assert (folder / NAMES[2]).stat().st_size > 4_000_000
