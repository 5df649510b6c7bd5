"""What a configuration asks of this machine: its processor, and paths that exist here. Asked before any work, and not
when a configuration is read: that of a run made elsewhere must stay readable."""

import math
import os

from autoprune.compute.memory import free_bytes
from autoprune.config import RunConfig
from autoprune.errors import ConfigError, InputError
from autoprune.foundation.paths import user_path

VARIABLES = ("AUTOPRUNE_DATA", "AUTOPRUNE_LATENCY_TABLE", "XDG_CACHE_HOME")  # each names a file or folder
BYTES_AN_INPUT = 64  # of memory for each number of the input: four bytes, and what layers make of it at the least


def check_machine(config: RunConfig) -> None:
    """Raises `InputError` naming the key, or the variable of the environment, that asks for what is not there."""
    names = {
        "model.name": config.model.name,
        "model.checkpoint": config.model.checkpoint,
        "data.name": config.data.name,
        "search.trials_from": config.search.trials_from,
        "adaptive.levels_from": config.adaptive.levels_from,
    }
    for field, name in names.items():
        # `imagefolder:DIR`, `file.py:factory`: either side may be the path.
        for part in (name or "").split(":"):
            if part.startswith("~"):
                user_path(part, field=field)
    for variable in VARIABLES:
        if named := os.environ.get(variable):
            user_path(named, field=variable)
    require_threads(config.measure.threads, field="measure.threads")


def require_threads(threads: int, *, field: str) -> None:
    """Raise `InputError` unless this process may run on so many cores: more would only wait for each other."""
    cores = usable_cores()
    if threads > cores:
        raise InputError(f"{field}: {threads} threads, but there are {cores} cores here; give at most {cores}")


def training_batches(config: RunConfig, *, is_trained: bool) -> dict[str, int]:
    """The batch sizes that the training of a run uses, each under its key."""
    learns = config.finetune.epochs > 0 or config.adaptive.enabled
    baseline = {} if is_trained else {"train.batch_size": config.train.batch_size}
    return baseline | ({"finetune.batch_size": config.finetune.batch_size} if learns else {})


def require_batches(config: RunConfig, images: int, input_shape: tuple[int, int, int], *, is_trained: bool) -> None:
    """Raise `ConfigError` if a training batch, of `images` (C, H, W) in all, cannot fit whatever the model is."""
    size = config.data.image_size
    for field, batch in training_batches(config, is_trained=is_trained).items():
        require_memory(
            min(batch, images) * math.prod(input_shape) * BYTES_AN_INPUT,
            field=f"{field}={batch}" if size is None else f"data.image_size={size} and {field}={batch}",
            fix="lower it" if size is None else "lower them",
        )


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_memory(needed_bytes: int, *, field: str, fix: str) -> None:
    """Raise `ConfigError` naming `field` if that is more than the memory which is free now; where the system does not
    say how much is, nothing is refused."""
    free = free_bytes()
    if free is not None and needed_bytes > free:
        raise ConfigError(
            f"{field}: needs about {needed_bytes / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free; {fix}"
        )
