"""The configuration of a run: its sections, their keys, and what each may hold."""

from autoprune.config.adaptive import AdaptiveConfig
from autoprune.config.goals import Metric, RewardConfig, TargetConfig
from autoprune.config.run import (
    CLASSIFICATION,
    ROUTES_BY_CLASS,
    MeasureConfig,
    RunConfig,
    check_adaptive_runtime,
    check_bounds,
    check_options,
)
from autoprune.config.search import IMPORTANCES, SEARCHERS, SearchConfig
from autoprune.config.subject import DataConfig, ModelConfig
from autoprune.config.training import AugmentConfig, FinetuneConfig, TrainConfig

__all__ = [
    "CLASSIFICATION",
    "IMPORTANCES",
    "ROUTES_BY_CLASS",
    "SEARCHERS",
    "AdaptiveConfig",
    "AugmentConfig",
    "DataConfig",
    "FinetuneConfig",
    "MeasureConfig",
    "Metric",
    "ModelConfig",
    "RewardConfig",
    "RunConfig",
    "SearchConfig",
    "TargetConfig",
    "TrainConfig",
    "check_adaptive_runtime",
    "check_bounds",
    "check_options",
]
