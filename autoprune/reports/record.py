"""What a finished run, or a search alone, left in its directory, read back and checked."""

from dataclasses import dataclass
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.errors import InputError
from autoprune.foundation.files import read_json
from autoprune.prediction.latency_model import LATENCY
from autoprune.reports.charts import GroupWidths
from autoprune.results.kept import FINETUNE, FRAME, NNI_TRIALS, SEARCH, FinetuneFrame, FinishedTrial
from autoprune.results.max_drop import part_name
from autoprune.results.run import RunResult, parse_result
from autoprune.search.prepare import ENVIRONMENT, ORIGINAL, OriginalPoint
from autoprune.space.policy import load_stored_policy
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import EpisodeRow, TrialStore
from autoprune.training.train import EpochLog


@dataclass(frozen=True)
class SearchRecord:
    """What a run directory holds about a search; of several, the one whose policy was taken."""

    config: RunConfig
    config_text: str
    groups: tuple[GroupWidths, ...]
    chosen: dict[str, int]
    episodes: tuple[EpisodeRow, ...]
    original: OriginalPoint | None  # None: of an earlier version
    proposed: dict[str, FinishedTrial]  # by a tuner of NNI's
    environment: dict[str, str]  # empty: of an earlier version
    is_of_a_run: bool  # which has decided, and goes on from there


@dataclass(frozen=True)
class RunRecord:
    """All that a run directory holds about a finished run."""

    search: SearchRecord
    result: RunResult
    finetune: tuple[EpochLog, ...]
    frame: FinetuneFrame | None  # None: of an earlier version


def read_run(root: Path) -> RunRecord:
    """Read a run directory whole; `InputError` names the file that is missing or broken."""
    run_dir, config = _checked(root)
    result = parse_result(read_json(run_dir.result), where=str(run_dir.result))
    store = _store(run_dir)
    part = next((number for number, trial in enumerate(result.search.max_drop_trials, 1) if trial.kept), None)
    search = _search(run_dir, config, store, store if part is None else store.part(part_name(part)))
    return RunRecord(search, result, store.kept(FINETUNE) or (), store.kept(FRAME))


def read_search(root: Path) -> SearchRecord:
    """Read the directory of a search alone; `InputError` names the file that is missing or broken."""
    run_dir, config = _checked(root)
    store = _store(run_dir)
    if not run_dir.policy.exists():
        raise InputError(f"{run_dir.policy}: no such file: the search there is not over; go on with --resume")
    search = _search(run_dir, config, store, store)
    if not search.episodes:
        raise InputError(f"{run_dir.trials}: holds no trial of a search")
    return search


def _checked(root: Path) -> tuple[RunDir, RunConfig]:
    if not root.is_dir():
        raise InputError(f"{root}: no such run directory")
    run_dir = RunDir(root)
    return run_dir, load_config(run_dir.config)


def _store(run_dir: RunDir) -> TrialStore:
    if not run_dir.trials.exists():  # opening it would make an empty one
        raise InputError(f"{run_dir.trials}: no such file")
    return TrialStore(run_dir.trials)


def _search(run_dir: RunDir, config: RunConfig, store: TrialStore, searched: TrialStore) -> SearchRecord:
    """What is in `searched`, which is `store` or a part of it."""
    latency = store.kept(LATENCY)
    chosen, groups = _read_groups(run_dir.policy, {} if latency is None else latency.ladders)
    return SearchRecord(
        config=config,
        config_text=run_dir.config.read_text(encoding="utf-8"),
        groups=groups,
        chosen=chosen,
        episodes=tuple(searched.episodes()),
        original=store.kept(ORIGINAL),
        proposed=store.kept(NNI_TRIALS) or {},
        environment=store.kept(ENVIRONMENT) or {},
        is_of_a_run=store.kept(SEARCH) is not None,
    )


def _read_groups(path: Path, ladders: dict[str, tuple[int, ...]]) -> tuple[dict[str, int], tuple[GroupWidths, ...]]:
    stored = load_stored_policy(path)
    groups = []
    for name, kept in stored.policy.channels:
        before = stored.widths.get(name)
        if before is None or before < kept:
            raise InputError(f"{path}: group {name} keeps {kept} of {before!r} channels")
        groups.append(GroupWidths(name, kept, before, ladders.get(name, ())))
    return stored.policy.as_dict(), tuple(groups)
