"""One seed in, independent streams out."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for `purpose` that differs from every other purpose's (first 31 bits of SHA-256)."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def rng(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (libraries that take no generator use them)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
