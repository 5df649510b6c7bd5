"""Input-adaptive models."""

from typing import ClassVar

from pydantic import Field, field_validator

from autoprune.config.section import Epochs, EpochsOrNone, FileNameOrNone, Part, Section


class AdaptiveConfig(Section):
    """An input-adaptive model: levels between which a router chooses for each input. They train as `finetune` says."""

    RETIRED: ClassVar = {"start_from": "is called levels_from now"}

    enabled: bool = Field(False, description="whether `autoprune run` makes one beside the pruned model")
    max_ratios: tuple[float, ...] = Field(
        (0.2, 0.35, 1.0),
        description="of the original's latency: of levels to try, ascending; 1: the original itself",
    )
    max_levels: int = Field(3, ge=2, le=5, description="so many of the levels tried are kept at most, the best mixture")
    epochs: EpochsOrNone = Field(None, description="of training the levels; null: as many as finetune.epochs")
    trial_epochs: Epochs = Field(2, description="of training all levels together before some are chosen")
    max_drop: Part = Field(
        0.0005,
        description="of accuracy, as estimated on views of the search split, at which the router works; 0 leaves it "
        "little: where levels differ something is lost as a rule",
    )
    router_rounds: int = Field(
        40, gt=0, le=10_000, description="of training the learned router; its best state is kept"
    )
    levels_from: FileNameOrNone = Field(
        None, description="folder of an earlier run: its trained levels are taken over, for another `max_drop`"
    )

    @field_validator("max_ratios")
    @classmethod
    def _ascending(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not 2 <= len(ratios) <= 8 or sorted(set(ratios)) != list(ratios) or not 0 < ratios[0] <= ratios[-1] <= 1:
            raise ValueError(f"must be 2 to 8 shares of the original's latency in rising order, got {list(ratios)}")
        return ratios
