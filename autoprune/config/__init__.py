"""The configuration of a run: its sections, their keys, and what each may hold."""

from autoprune.config.adaptive import AdaptiveConfig
from autoprune.config.goals import REWARD_FORMS, Metric, RewardConfig, TargetConfig
from autoprune.config.run import (
    CLASSIFICATION,
    ROUTES_BY_CLASS,
    TASKS,
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
    "REWARD_FORMS",
    "ROUTES_BY_CLASS",
    "SEARCHERS",
    "TASKS",
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
