"""What a finished run left in its directory, read back and checked."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from autoprune.charts import GroupWidths
from autoprune.config import RunConfig, load_config
from autoprune.errors import InputError
from autoprune.files import read_json
from autoprune.policy import load_policy
from autoprune.train import EpochLog
from autoprune.trials import EpisodeRow, TrialStore


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Figures(_Part):
    """What was measured of one exported model; accuracy is a fraction of the test split."""

    test_accuracy: float = Field(ge=0, le=1)
    params: int = Field(gt=0)
    macs: int = Field(gt=0)
    latency_ms_p50: float = Field(gt=0)
    latency_ms_p95: float = Field(gt=0)
    energy_mj: float | None = Field(ge=0)
    energy_source: Literal["measured", "estimated"] | None
    onnx_bytes: int = Field(gt=0)
    peak_rss_bytes: int | None = Field(gt=0)

    @model_validator(mode="after")
    def _energy_has_a_source(self) -> "Figures":
        if self.energy_mj is not None and self.energy_source is None:
            raise ValueError("energy_mj needs energy_source, measured or estimated")
        return self


class Ratios(_Part):
    """Pruned divided by original; `speedup` is the other way round."""

    params: float = Field(gt=0)
    macs: float = Field(gt=0)
    latency: float = Field(gt=0)
    energy: float | None
    speedup: float = Field(gt=0)
    speedup_ci95: tuple[float, float]


class Checks(_Part):
    onnx_parity_max_abs: float
    target_met: bool


class SearchFigures(_Part):
    searcher: str
    evaluations: int
    wall_s: float
    seed: int
    proxy_rank_correlation: float | None


class AdaptiveFigures(_Part):
    test_accuracy: float
    latency_ms_mean: float
    level_share: tuple[float, ...]


class RunResult(_Part):
    """`result.json`, schema 1; keys that this version does not know are left alone."""

    schema_version: Literal[1] = Field(alias="schema")
    original: Figures
    pruned: Figures
    ratios: Ratios
    checks: Checks
    search: SearchFigures
    adaptive: AdaptiveFigures | None = None
    environment: dict[str, str] = {}


@dataclass(frozen=True)
class RunRecord:
    """All that a run directory holds about a finished run."""

    config: RunConfig
    config_text: str
    result: RunResult
    groups: tuple[GroupWidths, ...]
    chosen: dict[str, int]
    episodes: tuple[EpisodeRow, ...]
    finetune: tuple[EpochLog, ...]


def parse_result(raw: Any, *, where: str) -> RunResult:
    """`raw` as schema 1; `InputError` begins with `where` and names the first key that is wrong."""
    try:
        return RunResult.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{where}: not a result of schema 1 ({_explain(error)})") from None


def read_run(run_dir: Path) -> RunRecord:
    """Read a run directory whole; `InputError` names the file that is missing or broken."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run directory")
    config_path, store_path = run_dir / "config.yaml", run_dir / "trials.sqlite"
    config = load_config(config_path)
    result = parse_result(read_json(run_dir / "result.json"), where=str(run_dir / "result.json"))
    if not store_path.is_file():  # opening it would make an empty one
        raise InputError(f"{store_path}: no such file")
    try:
        store = TrialStore(store_path)
        episodes, finetune, ladders = store.episodes(), store.fact("finetune_log"), store.fact("ladders")
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
        raise InputError(f"{where}: the fact ladders is broken ({_explain(error)})") from None


def _parse_finetune(text: str | None, *, where: Path) -> tuple[EpochLog, ...]:
    try:
        return () if text is None else TypeAdapter(tuple[EpochLog, ...]).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: the fact finetune_log is broken ({_explain(error)})") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else first["msg"]
