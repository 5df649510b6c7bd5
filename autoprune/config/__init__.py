"""The configuration of a run: its sections, their keys, and what each may hold."""

from autoprune.config.adaptive import AdaptiveConfig
from autoprune.config.goals import CostName, RewardConfig, TargetConfig
from autoprune.config.nni import NniConfig
from autoprune.config.run import (
    CLASSIFICATION_NAME,
    ROUTES_BY_CLASS,
    MeasureConfig,
    RunConfig,
    WorkersConfig,
    check_adaptive_runtime,
    check_bounds,
    check_options,
)
from autoprune.config.search import IMPORTANCES, SEARCHERS, SearchConfig
from autoprune.config.subject import DataConfig, ModelConfig
from autoprune.config.training import AugmentConfig, FinetuneConfig, TrainConfig

__all__ = [
    "CLASSIFICATION_NAME",
    "IMPORTANCES",
    "ROUTES_BY_CLASS",
    "SEARCHERS",
    "AdaptiveConfig",
    "AugmentConfig",
    "CostName",
    "DataConfig",
    "FinetuneConfig",
    "MeasureConfig",
    "ModelConfig",
    "NniConfig",
    "RewardConfig",
    "RunConfig",
    "SearchConfig",
    "TargetConfig",
    "TrainConfig",
    "WorkersConfig",
    "check_adaptive_runtime",
    "check_bounds",
    "check_options",
]
