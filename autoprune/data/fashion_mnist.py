"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey 28x28 images of clothes in 10 classes."""

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.data.splits import DataInfo, ImageSplit
from autoprune.errors import DataError
from autoprune.foundation.files import atomic_path, cache_folder

INFO = DataInfo(
    name="fashion-mnist",
    classes=("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    in_channels=1,
    height=28,
    width=28,
    mean=(0.2860,),
    std=(0.3530,),
)
# SHA-256 of the uncompressed files: the packers of the archives differ, their contents do not.
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PREFIXES = {"train": "train", "test": "t10k"}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
URLS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # plain http: the SHA-256 protects
)
DOWNLOAD_TIMEOUT_S = 30.0


def find_folder() -> Path:
    """The folder of the four archives: `AUTOPRUNE_DATA`, the cache, Debian's package, then the public download.

    Raises `DataError` that names the ways out when none of them has the files.
    """
    cached = cache_folder() / INFO.name
    named = os.environ.get("AUTOPRUNE_DATA")
    if named:
        for folder in (Path(named), Path(named) / INFO.name):
            if _holds_all(folder):
                return folder
        raise DataError(f"AUTOPRUNE_DATA={named}: it lacks some of {', '.join(SHA256)}; mend it or unset it")
    for folder in (cached, DEBIAN_FOLDER):
        if _holds_all(folder):
            return folder
    try:
        for name in SHA256:
            _download(name, cached / name)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"Fashion-MNIST is not on this machine and its download failed ({error}). Either set AUTOPRUNE_DATA to a "
            f"folder with {', '.join(SHA256)}; or install Debian's package (apt-get install dataset-fashion-mnist); "
            f"or connect to the internet, and the files are downloaded to {cached}"
        ) from None
    return cached


def load(split: str) -> ImageSplit:
    """The whole "train" (60,000) or "test" (10,000) split; `DataError` names a missing or corrupt archive."""
    folder = find_folder()
    prefix = PREFIXES[split]
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8)
    return ImageSplit(
        torch.from_numpy(images.reshape(-1, 1, INFO.height, INFO.width)), torch.from_numpy(labels.astype(np.int64))
    )


def _holds_all(folder: Path) -> bool:
    return all((folder / name).is_file() for name in SHA256)


def _download(name: str, path: Path) -> None:
    if path.is_file():
        return
    failures: list[str] = []
    for url in URLS:
        try:
            with urllib.request.urlopen(url + name, timeout=DOWNLOAD_TIMEOUT_S) as response:
                packed = response.read()
            _unpack(packed, name, where=url + name)
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"{url}: {error!r}" if not isinstance(error, DataError) else str(error))
            continue
        with atomic_path(path) as temporary:
            temporary.write_bytes(packed)
        return
    raise OSError("; ".join(failures))


def _read_idx(path: Path, *, header_bytes: int) -> NDArray[np.uint8]:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    content = _unpack(packed, path.name, where=str(path))
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).copy()


def _unpack(packed: bytes, name: str, *, where: str) -> bytes:
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: corrupt archive ({error}); delete it and fetch it again") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(f"{where}: its SHA-256 is not that of Fashion-MNIST; delete it and fetch it again")
    return content
