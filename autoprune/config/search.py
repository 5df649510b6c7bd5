"""The search: who searches, how far, and how candidates are scored."""

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from autoprune.config.goals import RewardConfig
from autoprune.config.section import (
    Epochs,
    FileName,
    FileNameOrNone,
    Images,
    PlainName,
    Section,
    Several,
    Share,
    built_in_or_own,
)
from autoprune.errors import shown

# fmt: off
SEARCHERS = (
    "ddpg", "td3", "sac", "tqc", "crossq", "ppo",
    "evolution", "tpe", "nsga2", "sensitivity", "knapsack", "global_magnitude", "random", "uniform",
)
# fmt: on
JOURNAL, DATABASES = "journal:", ("sqlite", "mysql", "postgresql")
IMPORTANCES = ("l2", "bn_scale", "taylor")
AgentName = Annotated[FileName, built_in_or_own(SEARCHERS)]
ImportanceName = Annotated[FileName, built_in_or_own(IMPORTANCES, "path/file.py:function")]


class SearchConfig(Section):
    RETIRED: ClassVar = {"start_from": "is called trials_from now"}

    agent: AgentName = Field("ddpg", description=f"{', '.join(SEARCHERS)}, or path/file.py:factory")
    settings: dict[str, Any] = Field({}, description="of that searcher, in place of its defaults")
    max_evaluations: int = Field(120, gt=0, le=20_000, description="distinct candidates that are scored")
    importance: ImportanceName = Field("l2", description=f"{', '.join(IMPORTANCES)}, or path/file.py:function")
    score_images: Images = Field(1000, description="images of the search split that score a candidate")
    calibration_images: Images = Field(256, description="training images that recalibrate BatchNorm")
    racing: bool = Field(True, description="drop candidates that are clearly behind at a coarse look")
    repair: bool = Field(True, description="let a candidate's kept weights make up for its lost ones (least squares)")
    trials_from: FileNameOrNone = Field(
        None, description="folder of an earlier run, of any target: its trials are remembered, its best policies tried"
    )
    study: FileNameOrNone = Field(
        None,
        description="keep the trials as a study of Optuna's too, to watch and to share: a database such as "
        f"sqlite:///study.db, or {JOURNAL}FILE",
    )
    study_name: PlainName = Field("autoprune", description="of that study in there")
    start_share: Share = Field(
        0.25, description="of max_evaluations: so many where a search starts from what another has found"
    )
    options: tuple[str, ...] = Field(
        (), description="kinds of option for single layers beside the groups' widths: a list of path/file.py:factory"
    )
    min_keep: Share = Field(0.125, description="least share of a group's channels to keep")
    drop_branches: bool = Field(True, description="a residual branch may also go whole: its channels are all cut")
    max_rungs: int = Field(8, gt=1, le=1000, description="candidate widths per group, before the staircase thins them")
    verify_top: Several = Field(6, description="best candidates whose exported files are timed before one is taken")
    finalists: Several = Field(
        4, description="so many of them are fine-tuned a little first; the more, the less unlike each other"
    )
    finalist_epochs: Epochs = Field(1, description="how long, before the best of the finalists is taken and goes on")
    max_drop_trials: int = Field(
        5,
        gt=0,
        le=100,
        description="with target.max_drop: so many searches, each with a whole fine-tuning, look for the limit",
    )
    reward: RewardConfig = RewardConfig()

    @field_validator("study")
    @classmethod
    def _is_storage(cls, where: str | None) -> str | None:
        scheme = where is not None and where.partition("://")[0].partition("+")[0]
        if where is not None and not where.startswith(JOURNAL) and ("://" not in where or scheme not in DATABASES):
            raise ValueError(
                f"must be {JOURNAL}FILE or the URL of a database ({', '.join(DATABASES)}) such as sqlite:///study.db, "
                f"got {shown(where)}"
            )
        return where

    @property
    def evaluations(self) -> int:
        """How many candidates the search of a run may evaluate."""
        return self.max_evaluations if self.trials_from is None else self.evaluations_from_known

    @property
    def evaluations_from_known(self) -> int:
        """How many, where it starts from policies that did well under other limits."""
        return math.ceil(self.start_share * self.max_evaluations)
