"""The configuration of a run: its sections, their keys, and what each may hold."""

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from autoprune.config_section import (
    HEAVIEST,
    HIGHEST_RATE,
    LARGEST_SIZE,
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_MINUTES,
    Section,
    names_a_file,
)
from autoprune.errors import ConfigError, shown

Metric = Literal["latency", "energy", "macs", "params"]
# fmt: off
SEARCHERS = (
    "ddpg", "td3", "sac", "tqc", "crossq", "ppo",
    "evolution", "tpe", "nsga2", "sensitivity", "knapsack", "global_magnitude", "random", "uniform",
)
# fmt: on

REWARD_FORMS = ("constrained", "weighted", "amc")
IMPORTANCES = ("l2", "bn_scale", "taylor")

LEAST_STD = 1e-4  # of pixels in 0..1: less is no spread of a byte


def _known(name: str, names: tuple[str, ...], own: str) -> str:
    """A name that is built in, or one that may be of a user's own file."""
    if name not in names and ":" not in name:
        raise ValueError(f"must be one of {', '.join(names)}, or {own}, got {shown(name)}")
    return name


def _listed(values: tuple[float, ...] | None) -> str:
    return "nothing" if values is None else f"[{', '.join(f'{value:g}' for value in values)}]"


class ModelConfig(Section):
    name: str = Field("resnet20", description="built in, torchvision:NAME, timm:NAME, file.py:factory, package:factory")
    width: float = Field(1.0, gt=0, le=8, description="width multiplier of a built-in model")
    checkpoint: str | None = Field(None, description="tensors only: safetensors, a torch file, or a shipped name")
    checkpoint_key: str | None = Field(None, description="which weights of several in that file, for example ema")

    @model_validator(mode="after")
    def _key_of_a_file(self) -> "ModelConfig":
        if self.checkpoint_key is not None and self.checkpoint is None:
            raise ValueError(
                "model.checkpoint_key chooses among the weights in a file: give checkpoint too, or leave it out"
            )
        return self

    _names = field_validator("name", "checkpoint")(names_a_file)


class DataConfig(Section):
    name: str = Field("fashion-mnist", description="fashion-mnist, imagefolder:DIR or path/file.py:factory")
    search_images: int = Field(
        5000, gt=0, le=MOST_IMAGES, description="images cut from train for search and model selection"
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of that cut; independent of the run's seed")
    image_size: int | None = Field(None, ge=4, le=4096, description="scale and crop pictures to this many pixels")
    mean: tuple[float, ...] | None = Field(None, description="per channel, of pixels in 0..1; default: that of train")
    std: tuple[float, ...] | None = Field(None, description="the same; what a model was trained with goes here")
    max_train_images: int | None = Field(
        None, gt=1, le=MOST_IMAGES, description="a stratified subset of train, for quick trials"
    )
    max_test_images: int | None = Field(
        None, gt=1, le=MOST_IMAGES, description="a stratified subset of test, for quick trials"
    )

    _names = field_validator("name")(names_a_file)

    @model_validator(mode="after")
    def _statistics(self) -> "DataConfig":
        mean, std = self.mean, self.std
        if mean is None and std is None:
            return self
        if mean is None or std is None or not mean or len(mean) != len(std):
            raise ValueError(
                f"give data.mean and data.std together, a number per channel each; got mean {_listed(mean)}, "
                f"std {_listed(std)}"
            )
        for key, values, least in (("mean", mean, 0), ("std", std, LEAST_STD)):
            if not all(least <= value <= 1 for value in values):
                raise ValueError(f"{key}: must be within {least:g}..1 (a pixel of 255 is 1), got {_listed(values)}")
        return self


class AugmentConfig(Section):
    crop_padding: int = Field(2, ge=0, le=LARGEST_SIZE, description="pixels around an image, from which it is cropped")
    flip: bool = Field(True, description="mirror every second image, left and right")
    erase_size: int = Field(0, ge=0, le=LARGEST_SIZE, description="side of a square that is set to zero")
    cutmix_size: int = Field(
        0, ge=0, le=LARGEST_SIZE, description="side of a square that comes from another image, in its place"
    )
    square_prob: float = Field(1.0, gt=0, le=1, description="how often an image gets its square (CutMix on CIFAR: 0.5)")

    @model_validator(mode="after")
    def _one_square(self) -> "AugmentConfig":
        if self.erase_size and self.cutmix_size:
            raise ValueError("give erase_size or cutmix_size, not both")
        return self


class TrainConfig(Section):
    """A baseline from scratch: SGD with Nesterov momentum under a OneCycle schedule."""

    epochs: int = Field(30, gt=0, le=MOST_EPOCHS, description="passes over the train split")
    batch_size: int = Field(256, gt=1, le=MOST_IMAGES, description="images of a step")
    learning_rate: float = Field(0.4, gt=0, le=HIGHEST_RATE, description="the highest of the schedule")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="of weights, not of biases and BatchNorm")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label that is spread over all classes")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="0 switches the weight average off")
    augment: AugmentConfig = AugmentConfig()


class TargetConfig(Section):
    """`max_ratio` of the original's cost, an absolute `max_value` in `unit`, or the least cost at which the fine-tuned
    model loses at most `max_drop` of accuracy on the search split (a fraction: 0.005 is half a point)."""

    metric: Metric = Field(description="what is limited")
    max_ratio: float | None = Field(None, gt=0, le=1, description="of the original's cost")
    max_value: float | None = Field(None, gt=0, le=1e18, description="an absolute cost, in `unit`")
    unit: Literal["ms", "us", "mj", "count"] | None = Field(None, description="of max_value")
    max_drop: float | None = Field(None, ge=0, lt=1, description="accuracy that may be lost, 0.005: half a point")

    @model_validator(mode="after")
    def _one_bound(self) -> "TargetConfig":
        if sum(bound is not None for bound in (self.max_ratio, self.max_value, self.max_drop)) != 1:
            raise ValueError("give one of max_ratio, max_value with unit, or max_drop")
        allowed = {"latency": {"ms", "us"}, "energy": {"mj"}, "macs": {"count"}, "params": {"count"}}[self.metric]
        if self.max_value is not None and self.unit not in allowed:
            raise ValueError(f"unit of a {self.metric} target must be one of {sorted(allowed)}")
        if self.max_value is None and self.unit is not None:
            raise ValueError(f"{'max_ratio' if self.max_drop is None else 'max_drop'} has no unit")
        return self

    def bound(self, original: float) -> float:
        """The largest allowed cost in ms, mJ or a count, when the original's is `original` in the same unit."""
        if self.max_ratio is not None:
            return self.max_ratio * original
        assert self.max_value is not None, "a cost under max_drop is found, not given"
        return self.max_value / 1000 if self.unit == "us" else self.max_value


class RewardConfig(Section):
    """`form`: constrained = accuracy part alone (the target is met by clipping); weighted = minus cost_weight times
    the cost ratio; amc = -error * log(cost) (He et al. 2018); or path/file.py:function of score and cost ratio."""

    accuracy: Literal["kl", "cross_entropy", "top1"] = Field("kl", description="what a candidate is judged by")
    form: str = Field("constrained", description=f"{', '.join(REWARD_FORMS)}, or path/file.py:function")
    cost: Metric = Field("latency", description="which cost counts, in forms that have one")
    cost_weight: float = Field(0.0, ge=0, le=HEAVIEST, description="of the cost, in form weighted")

    @field_validator("form")
    @classmethod
    def _known_form(cls, name: str) -> str:
        return _known(name, REWARD_FORMS, "path/file.py:function")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "RewardConfig":
        if self.cost_weight and self.form != "weighted":
            raise ValueError(f"cost_weight is for form weighted; {self.form} does not use it")
        if self.cost != "latency" and self.form == "constrained":
            raise ValueError("cost is for the other forms; constrained rewards accuracy alone, the target limits costs")
        if self.accuracy != "kl" and self.form not in ("constrained", "weighted"):
            raise ValueError(f"accuracy is for forms constrained and weighted; {self.form} does not use it")
        return self


class SearchConfig(Section):
    agent: str = Field("ddpg", description=f"{', '.join(SEARCHERS)}, or path/file.py:factory")
    settings: dict[str, Any] = Field({}, description="of that searcher, in place of its defaults")
    max_evaluations: int = Field(120, gt=0, le=20_000, description="distinct candidates that are scored")
    importance: str = Field("l2", description=f"{', '.join(IMPORTANCES)}, or path/file.py:function")
    score_images: int = Field(
        1000, gt=1, le=MOST_IMAGES, description="images of the search split that score a candidate"
    )
    calibration_images: int = Field(256, gt=1, le=MOST_IMAGES, description="training images that recalibrate BatchNorm")
    racing: bool = Field(True, description="drop candidates that are clearly behind at a coarse look")
    repair: bool = Field(True, description="let a candidate's kept weights make up for its lost ones (least squares)")
    start_from: str | None = Field(
        None, description="folder of an earlier run, of any target: its trials are remembered, its best policies tried"
    )
    start_share: float = Field(
        0.25, gt=0, le=1, description="of max_evaluations: so many where a search starts from what another has found"
    )
    min_keep: float = Field(0.125, gt=0, le=1, description="least share of a group's channels to keep")
    drop_branches: bool = Field(True, description="a residual branch may also go whole: its channels are all cut")
    max_rungs: int = Field(8, gt=1, le=1000, description="candidate widths per group, before the staircase thins them")
    verify_top: int = Field(
        6, gt=0, le=1000, description="best candidates whose exported files are timed before one is taken"
    )
    finalists: int = Field(
        4,
        gt=0,
        le=1000,
        description="so many of them are fine-tuned a little first; the more, the less unlike each other",
    )
    finalist_epochs: int = Field(
        1, gt=0, le=MOST_EPOCHS, description="how long, before the best of the finalists is taken and goes on"
    )
    max_drop_trials: int = Field(
        5,
        gt=0,
        le=100,
        description="with target.max_drop: so many searches, each with a whole fine-tuning, look for the limit",
    )
    reward: RewardConfig = RewardConfig()

    _names = field_validator("agent", "importance", "start_from")(names_a_file)

    @field_validator("agent")
    @classmethod
    def _known_searcher(cls, name: str) -> str:
        return _known(name, SEARCHERS, "path/file.py:factory")

    @field_validator("importance")
    @classmethod
    def _known_importance(cls, name: str) -> str:
        return _known(name, IMPORTANCES, "path/file.py:function")

    @property
    def evaluations(self) -> int:
        """How many candidates the search of a run may evaluate."""
        return self.max_evaluations if self.start_from is None else self.evaluations_from_known

    @property
    def evaluations_from_known(self) -> int:
        """How many, where it starts from policies that did well under other limits."""
        return math.ceil(self.start_share * self.max_evaluations)


class ElasticConfig(Section):
    """Elastic distillation before the search: candidates are then scored with weights trained for being cut.

    Batches, augmentation and loss are those of `finetune`.
    """

    epochs: int = Field(
        0, ge=0, le=MOST_EPOCHS, description="0: none; candidates are scored with the original's weights"
    )
    max_minutes: float | None = Field(
        None, ge=1e-4, le=MOST_MINUTES, description="end it after so many minutes, if epochs are left then"
    )
    learning_rate: float | None = Field(None, gt=0, le=HIGHEST_RATE, description="default: that of finetune")
    cuts: int = Field(64, gt=0, le=10_000, description="so many cuts that meet the target are trained in turn")
    ends_share: float = Field(0.0, ge=0, le=1, description="share of the steps for the largest and the smallest cut")


class FinetuneConfig(Section):
    epochs: int = Field(10, ge=0, le=MOST_EPOCHS, description="passes over the train split")
    max_minutes: float | None = Field(
        None, ge=1e-4, le=MOST_MINUTES, description="end it after so many minutes, if epochs are left then"
    )
    batch_size: int = Field(256, gt=1, le=MOST_IMAGES, description="images of a step")
    learning_rate: float | None = Field(
        None, gt=0, le=HIGHEST_RATE, description="default: the baseline's divided by 10"
    )
    pruned_lr_factor: float = Field(
        2.0, gt=0, le=1000, description="the learning rate of layers that lost channels, times this"
    )
    muon_step: float = Field(
        0.0, ge=0, lt=1, description="of a convolution's norm, along orthogonalised momentum, in SGD's place (0: SGD)"
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="less than a baseline's: a cut has less to be held back")
    temperature: float = Field(4.0, ge=0.01, le=1000, description="of the answers that are compared with the teacher's")
    distill_weight: float = Field(0.9, ge=0, le=1, description="share of the teacher's logits in the loss")
    feature_weight: float = Field(0.0, ge=0, le=HEAVIEST, description="weight of the attention-transfer term (0: none)")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="0 switches the weight average off")
    cut_per_step: float | None = Field(
        None, ge=0.001, lt=1, description="iterative: cut at most this share of what is left, fine-tune, repeat"
    )
    augment: AugmentConfig = AugmentConfig()

    def for_epochs(self, epochs: int) -> "FinetuneConfig":
        """The same for so many epochs, and for as much of the time as they are of the epochs that it has now."""
        minutes = None if self.max_minutes is None else self.max_minutes * epochs / max(self.epochs, 1)
        return self.model_copy(update={"epochs": epochs, "max_minutes": minutes})

    @model_validator(mode="before")
    @classmethod
    def _retired_key(cls, raw: Any) -> Any:
        """Runs of an earlier version wrote `augmented_forms: null` into their config.yaml: it changes nothing."""
        if isinstance(raw, dict) and "augmented_forms" in raw and raw["augmented_forms"] is None:
            return {key: value for key, value in raw.items() if key != "augmented_forms"}
        return raw


class AdaptiveConfig(Section):
    """An input-adaptive model: levels between which a router chooses for each input. They train as `finetune` says."""

    enabled: bool = Field(False, description="whether `autoprune run` makes one beside the pruned model")
    max_ratios: tuple[float, ...] = Field(
        (0.2, 0.35, 1.0),
        description="of the original's latency: of levels to try, ascending; 1: the original itself",
    )
    max_levels: int = Field(3, ge=2, le=5, description="so many of the levels tried are kept at most, the best mixture")
    epochs: int | None = Field(
        None, gt=0, le=MOST_EPOCHS, description="of training the levels; null: as many as finetune.epochs"
    )
    trial_epochs: int = Field(
        2, gt=0, le=MOST_EPOCHS, description="of training all levels together before some are chosen"
    )
    max_drop: float = Field(
        0.0005,
        ge=0,
        lt=1,
        description="of accuracy, as estimated on views of the search split, at which the router works; 0 leaves it "
        "little: where levels differ something is lost as a rule",
    )
    router_rounds: int = Field(
        40, gt=0, le=10_000, description="of training the learned router; its best state is kept"
    )
    start_from: str | None = Field(
        None, description="folder of an earlier run: its trained levels are taken over, for another `max_drop`"
    )

    _names = field_validator("start_from")(names_a_file)

    @field_validator("max_ratios")
    @classmethod
    def _ascending(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not 2 <= len(ratios) <= 8 or sorted(set(ratios)) != list(ratios) or not 0 < ratios[0] <= ratios[-1] <= 1:
            raise ValueError(f"must be 2 to 8 shares of the original's latency in rising order, got {list(ratios)}")
        return ratios


class MeasureConfig(Section):
    threads: int = Field(1, gt=0, le=4096, description="at most as many as the machine has cores")
    batch_size: int = Field(1, gt=0, le=4096, description="at most as many as there are test images")
    rounds: int = Field(60, gt=4, le=10_000, description="interleaved rounds; the interval is bootstrapped over them")
    runs_per_round: int = Field(20, gt=0, le=10_000, description="calls of each file in a round")
    allow_estimated_energy: bool = Field(False, description="let a target or reward use estimates without a sensor")


class RunConfig(Section):
    """A whole run. `problem: toy` replaces model and data by a small problem with a known optimum."""

    problem: Literal["model", "toy"] = Field("model", description="toy: a small problem with a known optimum")
    seed: int = Field(0, ge=0, lt=2**31, description="of all chance: the same seed, the same run")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    target: tuple[TargetConfig, ...] = (TargetConfig(metric="latency", max_ratio=0.5),)
    elastic: ElasticConfig = ElasticConfig()
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    measure: MeasureConfig = MeasureConfig()

    @field_validator("target", mode="before")
    @classmethod
    def _single_target(cls, value: Any) -> Any:
        if isinstance(value, dict | TargetConfig):
            return [value]
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(
                f"must be a bound such as {{metric: latency, max_ratio: 0.5}} or a list, got {shown(value)}"
            )
        return value

    @field_validator("target")
    @classmethod
    def _one_open_bound(cls, targets: tuple[TargetConfig, ...]) -> tuple[TargetConfig, ...]:
        if sum(target.max_drop is not None for target in targets) > 1:
            raise ValueError("only one target may have max_drop; give the others max_ratio or max_value")
        return targets

    @property
    def drop_target(self) -> TargetConfig | None:
        """The target whose bound the run has to find, if there is one."""
        return next((target for target in self.target if target.max_drop is not None), None)

    def at_ratio(self, max_ratio: float) -> "RunConfig":
        """The same with this bound in place of `max_drop`."""
        targets = tuple(
            target if target.max_drop is None else TargetConfig(metric=target.metric, max_ratio=max_ratio)
            for target in self.target
        )
        return self.model_copy(update={"target": targets})

    @property
    def finetune_learning_rate(self) -> float:
        return self.finetune.learning_rate or self.train.learning_rate / 10

    @property
    def elastic_learning_rate(self) -> float:
        return self.elastic.learning_rate or self.finetune_learning_rate

    @property
    def energy_keys(self) -> tuple[str, ...]:
        """The keys that make this run work with energy: it needs a sensor, or leave to use estimates."""
        reward = self.search.reward
        in_target = any(target.metric == "energy" for target in self.target)
        in_reward = reward.cost == "energy" and reward.form != "constrained"
        return (*(("target",) if in_target else ()), *(("search.reward.cost",) if in_reward else ()))

    @property
    def uses_energy(self) -> bool:
        return bool(self.energy_keys)


def check_bounds(config: RunConfig) -> None:
    """Raises `ConfigError` if a target has no bound of its own: only a run that fine-tunes can find one."""
    if config.drop_target is not None:
        raise ConfigError(
            "target.max_drop: only `autoprune run` and `autoprune.compress` fine-tune several cuts to find the bound; "
            f"give one here, for example -o 'target={{metric: {config.drop_target.metric}, max_ratio: 0.5}}'"
        )
