"""A whole run: all sections."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from autoprune.config.adaptive import AdaptiveConfig
from autoprune.config.goals import TargetConfig
from autoprune.config.nni import NniConfig
from autoprune.config.presets import Preset, with_preset
from autoprune.config.search import SearchConfig
from autoprune.config.section import PLAIN_NAME, FileName, Section, built_in_or_own
from autoprune.config.subject import DataConfig, ModelConfig
from autoprune.config.training import FinetuneConfig, TrainConfig
from autoprune.errors import ConfigError, shown

RUNTIMES = ("onnxruntime", "openvino")  # those that run exported files
CLASSIFICATION_NAME = "classification"
TASKS = (CLASSIFICATION_NAME,)
RuntimeName = Annotated[FileName, built_in_or_own(RUNTIMES)]
ROUTES_BY_CLASS = (
    f"an input-adaptive model routes by the probabilities of classes, so that task must be {CLASSIFICATION_NAME}"
)


class MeasureConfig(Section):
    threads: int = Field(1, gt=0, le=4096, description="at most as many as the machine has cores")
    batch_size: int = Field(1, gt=0, le=4096, description="at most as many as there are test images")
    runtime: RuntimeName = Field(RUNTIMES[0], description=f"{', '.join(RUNTIMES)}, or path/file.py:factory")
    rounds: int = Field(60, gt=4, le=10_000, description="interleaved rounds, in sittings that load the files anew")
    runs_per_round: int = Field(20, gt=0, le=10_000, description="calls of each file in a round")
    allow_estimated_energy: bool = Field(False, description="let a target or reward use estimates without a sensor")


class WorkersConfig(Section):
    """Who scores candidates with `--executor ray`. It is no part of what a run is: it may go on with other workers."""

    count: int | None = Field(None, gt=0, le=4096, description="how many; null: as many as there are processors for")
    cpus: float = Field(1.0, gt=0, le=4096, description="processors of each, and threads, of which it has at least one")
    gpus: float = Field(0.0, ge=0, le=64, description="set aside for each; a share, such as 0.25, for four on one")
    resource: str | None = Field(
        None, pattern=PLAIN_NAME, description="a resource of Ray's that its machine has to have"
    )


class RunConfig(Section):
    """A whole run. `problem: toy` replaces model and data by a small problem with a known optimum."""

    RETIRED: ClassVar = {"elastic": "is gone: rewards ordered no better with it"}

    preset: Preset = Field("standard", description="how much time it may take; keys that are given go before its own")
    problem: Literal["model", "toy"] = Field("model", description="toy: a small problem with a known optimum")
    seed: int = Field(0, ge=0, lt=2**31, description="of all chance: the same seed, the same run")
    task: Annotated[FileName, built_in_or_own(TASKS)] = Field(
        CLASSIFICATION_NAME, description=f"what the model is for: {', '.join(TASKS)}, or path/file.py:factory"
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    target: tuple[TargetConfig, ...] = (TargetConfig(metric="latency", max_ratio=0.5),)
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    measure: MeasureConfig = MeasureConfig()
    nni: NniConfig = NniConfig()
    workers: WorkersConfig = WorkersConfig()
    own_kernels: bool = Field(
        True, description="train with kernels of autoprune's own; PyTorch's are slower and on some CPUs crash"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, raw: Any) -> Any:
        return with_preset(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _task_is_used(self) -> "RunConfig":
        if self.adaptive.enabled and self.task != CLASSIFICATION_NAME:
            raise ValueError(f"adaptive.enabled: {ROUTES_BY_CLASS}")
        if self.problem == "toy" and self.task != CLASSIFICATION_NAME:
            raise ValueError("task: the toy has no model, and so no outputs to judge")
        return self

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
    def energy_keys(self) -> tuple[str, ...]:
        """The keys that make this run work with energy: it needs a sensor, or leave to use estimates."""
        reward = self.search.reward
        in_target = any(target.metric == "energy" for target in self.target)
        in_reward = reward.cost == "energy" and reward.form != "constrained"
        return (*(("target",) if in_target else ()), *(("search.reward.cost",) if in_reward else ()))

    @property
    def uses_energy(self) -> bool:
        return bool(self.energy_keys)


def check_adaptive_runtime(config: RunConfig) -> None:
    """Raises `ConfigError` for an input-adaptive model in another runtime than ONNX Runtime."""
    if config.measure.runtime != RUNTIMES[0]:
        raise ConfigError(
            f"measure.runtime={config.measure.runtime}: an input-adaptive file chooses its level with ONNX's If, in a "
            "session of ONNX Runtime; set measure.runtime=onnxruntime, or adaptive.enabled=false"
        )


def check_options(config: RunConfig, *, adapts: bool) -> None:
    """Raises `ConfigError` where options of single layers cannot be kept."""
    if config.search.options and adapts:
        raise ConfigError(
            "search.options: levels of an input-adaptive model share their weights; give one or the other"
        )
    if config.search.options and config.finetune.cut_per_step is not None:
        raise ConfigError(
            "finetune.cut_per_step: cuts widths step by step, and cannot with search.options; leave it out"
        )


def check_bounds(config: RunConfig) -> None:
    """Raises `ConfigError` if a target has no bound of its own: only a run that fine-tunes can find one."""
    if config.drop_target is not None:
        raise ConfigError(
            "target.max_drop: only `autoprune run` and `autoprune.compress` fine-tune several cuts to find the bound; "
            f"give one here, for example -o 'target={{metric: {config.drop_target.metric}, max_ratio: 0.5}}'"
        )
