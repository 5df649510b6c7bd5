"""What a finished run left in its directory, read back and checked."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.errors import InputError
from autoprune.foundation.files import read_json
from autoprune.reports.charts import GroupWidths
from autoprune.results.max_drop import part_name
from autoprune.results.run import Part, RunResult, explain, parse_result
from autoprune.space.policy import load_policy
from autoprune.store.trials import EpisodeRow, TrialStore
from autoprune.training.train import EpochLog


class FinetuneFrame(Part):
    """Accuracies on the search split around fine-tuning, and the epochs that it might have taken."""

    original: float
    before: float
    epochs: int


class OriginalPoint(Part):
    """Where the original stands among the candidates of a search."""

    predicted_latency_ms: float
    metric: float


@dataclass(frozen=True)
class RunRecord:
    """All that a run directory holds about a finished run; of several searches, the one whose policy was taken."""

    config: RunConfig
    config_text: str
    result: RunResult
    groups: tuple[GroupWidths, ...]
    chosen: dict[str, int]
    episodes: tuple[EpisodeRow, ...]
    finetune: tuple[EpochLog, ...]
    frame: FinetuneFrame | None = None  # None: of an earlier version
    original: OriginalPoint | None = None


def read_run(run_dir: Path) -> RunRecord:
    """Read a run directory whole; `InputError` names the file that is missing or broken."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run directory")
    config_path, store_path = run_dir / "config.yaml", run_dir / "trials.sqlite"
    config = load_config(config_path)
    if not (run_dir / "result.json").exists() and (policy := run_dir / "policy.json").is_file():
        raise InputError(
            f"{run_dir / 'result.json'}: no such file, so {run_dir} holds a search alone; see `autoprune front "
            f"{run_dir}`, or make a run of it with `autoprune apply CONFIG --policy {policy}`"
        )
    result = parse_result(read_json(run_dir / "result.json"), where=str(run_dir / "result.json"))
    if not store_path.exists():  # opening it would make an empty one
        raise InputError(f"{store_path}: no such file")
    try:
        store = TrialStore(store_path)
        part = next((number for number, trial in enumerate(result.search.max_drop_trials, 1) if trial.kept), None)
        searched = store if part is None else store.part(part_name(part))
        episodes, finetune, ladders = searched.episodes(), store.fact("finetune_log"), store.fact("ladders")
        frame = store.parsed_fact("finetune_frame", FinetuneFrame.model_validate_json)
        original = store.parsed_fact("original", OriginalPoint.model_validate_json)
    except sqlite3.DatabaseError as error:
        raise InputError(f"{store_path}: not a trials database ({error})") from None
    chosen, groups = _read_groups(run_dir / "policy.json", _parse_ladders(ladders, where=store_path))
    return RunRecord(
        config=config,
        config_text=config_path.read_text(encoding="utf-8"),
        result=result,
        groups=groups,
        chosen=chosen,
        episodes=tuple(episodes),
        finetune=_parse_finetune(finetune, where=store_path),
        frame=frame,
        original=original,
    )


def _read_groups(path: Path, ladders: dict[str, tuple[int, ...]]) -> tuple[dict[str, int], tuple[GroupWidths, ...]]:
    policy = load_policy(path)
    raw = read_json(path)["groups"]
    groups = []
    for name, kept in policy.channels:
        before = raw[name].get("of")
        if not isinstance(before, int) or before < kept:
            raise InputError(f"{path}: group {name} keeps {kept} of {before!r} channels")
        groups.append(GroupWidths(name, kept, before, ladders.get(name, ())))
    return policy.as_dict(), tuple(groups)


def _parse_ladders(text: str | None, *, where: Path) -> dict[str, tuple[int, ...]]:
    try:
        return {} if text is None else TypeAdapter(dict[str, tuple[int, ...]]).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: the fact ladders is broken ({explain(error)})") from None


def _parse_finetune(text: str | None, *, where: Path) -> tuple[EpochLog, ...]:
    try:
        return () if text is None else TypeAdapter(tuple[EpochLog, ...]).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: the fact finetune_log is broken ({explain(error)})") from None
