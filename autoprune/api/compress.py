"""The whole job from Python: `autoprune.compress(model, data, target=…, run_dir=…)`."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.api.arguments import check_data, check_model, check_run_folder, check_settings, check_target
from autoprune.compute.machine import check_machine
from autoprune.config import RunConfig, TargetConfig
from autoprune.config.file import parse_config
from autoprune.config.unused import say_no_effect, set_among
from autoprune.data import ImageSplit, SearchData
from autoprune.errors import InputError
from autoprune.foundation.factories import users_errors
from autoprune.jobs.run import run
from autoprune.models import build_model, check_weights, tensor_state
from autoprune.pruning.structure import load_pruned
from autoprune.results.run import RunResult
from autoprune.space.policy import PruningPolicy, load_policy
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir, check_run_dir

# As in a configuration: {"metric": "latency", "max_ratio": 0.5}, or "max_drop": 0.0; or several that must all hold.
Target = TargetConfig | Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """A finished run: the pruned, fine-tuned module in evaluation mode, its policy, what was measured, the files."""

    model: nn.Module
    policy: PruningPolicy
    report: RunResult  # result.json
    paths: RunDir


@users_errors()
def compress(
    model: nn.Module | str,
    data: SearchData | str,
    *,
    run_dir: Path | str,
    target: Target | Sequence[Target] | None = None,
    checkpoint: Path | str | None = None,
    test: ImageSplit | None = None,
    config: RunConfig | None = None,
    resume: bool = False,
) -> Result:
    """Search, cut, fine-tune, export and measure; everything is left in `run_dir`.

    `model` is a trained module, which is not changed, or a model's name with its `checkpoint`. `data` is a name, or
    your own `SearchData` with a `test` split, which is used once, at the end. `config` holds all other settings;
    `target` replaces its target. With `resume`, a run that was stopped goes on. Raises `InputError` for bad input,
    that names the argument, before any work, and `RunError` if the run fails midway, one of them `UserCodeError` if a
    file of yours did.
    """
    check_model(model)
    check_data(data, test)
    check_settings(config, checkpoint, resume, model)
    paths = RunDir(check_run_folder(run_dir))
    settings = _settings(config or RunConfig(), model, data, test, target, checkpoint)
    check_run_dir(paths.root, settings, resume=resume, field="run_dir")
    check_machine(settings)
    _say_replaced(config or RunConfig(), model, data)
    given_model = None if isinstance(model, str) else model
    subject = load_subject(settings, model=given_model, data=None if isinstance(data, str) else data, test=test)
    report = run(settings, paths.root, resume=resume, subject=subject)
    architecture = subject.model if subject.spec is None else build_model(subject.spec)
    return Result(load_pruned(paths.pruned, architecture=architecture), load_policy(paths.policy), report, paths)


def _settings(
    config: RunConfig,
    model: nn.Module | str,
    data: SearchData | str,
    test: ImageSplit | None,
    target: Target | Sequence[Target] | None,
    checkpoint: Path | str | None,
) -> RunConfig:
    """The configuration of the run. Objects are named by what they hold, so that `resume` notices other ones."""
    raw = config.model_dump()
    if isinstance(model, str):
        raw["model"]["name"] = model
        raw["model"]["checkpoint"] = None if checkpoint is None else str(checkpoint)
    else:
        check_weights(model, type(model).__name__)
        raw["model"] = {"name": f"{type(model).__name__} {_digest(tensor_state(model).values())}"}
    if isinstance(data, str):
        raw["data"]["name"] = data
    else:
        splits = (data.train, data.search, *([test] if test is not None else []))
        if config.data.mean is not None:
            raise InputError("data.mean, data.std: data given as SearchData has these in its info; leave them out")
        raw["data"]["name"] = (
            f"{data.info.name} {_digest(tensor for split in splits for tensor in (split.images, split.labels))}"
        )
    if target is not None:
        raw["target"] = check_target(target)
    return parse_config(raw, where="compress")


def _say_replaced(config: RunConfig, model: nn.Module | str, data: SearchData | str) -> None:
    """Say which keys of the configuration give way to arguments."""
    keys = "model.name model.checkpoint data.name" if isinstance(model, str) else "model data.name"
    if not isinstance(data, str):
        keys += " data.search_images data.split_seed data.image_size data.max_train_images data.max_test_images"
    if given := set_among(config, keys):
        say_no_effect(given, "autoprune.compress takes model and data as arguments")


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in values:
        if not isinstance(tensor, Tensor):  # a module's `get_extra_state`
            digest.update(repr(tensor).encode())
            continue
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
