"""Training: of a baseline, of what is pruned, and of weights that are trained to be cut."""

from typing import ClassVar

from pydantic import Field, model_validator

from autoprune.config.section import (
    HIGHEST_RATE,
    MOST_EPOCHS,
    MOST_MINUTES,
    Epochs,
    Images,
    Part,
    Pixels,
    Rate,
    Section,
    Share,
    Weight,
)


class AugmentConfig(Section):
    crop_padding: Pixels = Field(2, description="pixels around an image, from which it is cropped")
    flip: bool = Field(True, description="mirror every second image, left and right")
    erase_size: Pixels = Field(0, description="side of a square that is set to zero")
    cutmix_size: Pixels = Field(0, description="side of a square that comes from another image, in its place")
    square_prob: Share = Field(1.0, description="how often an image gets its square (CutMix on CIFAR: 0.5)")

    @model_validator(mode="after")
    def _one_square(self) -> "AugmentConfig":
        if self.erase_size and self.cutmix_size:
            raise ValueError("give erase_size or cutmix_size, not both")
        if self.square_prob != 1 and not (self.erase_size or self.cutmix_size):
            raise ValueError("square_prob is of a square: give erase_size or cutmix_size, or leave it out")
        return self

    @property
    def offsets(self) -> int:
        """How many places a crop can have along one side."""
        return 2 * self.crop_padding + 1

    @property
    def forms(self) -> int | None:
        """How many different images one image can become; None with a square: hardly any comes twice then."""
        return None if self.erase_size or self.cutmix_size else self.offsets**2 * (1 + self.flip)

    @property
    def views(self) -> int:
        """How many `autoprune.data.views` of an image there are."""
        return (5 if self.crop_padding else 1) * (1 + self.flip)


class TrainConfig(Section):
    """A baseline from scratch: SGD with Nesterov momentum under a OneCycle schedule."""

    epochs: Epochs = Field(30, description="passes over the train split")
    batch_size: Images = Field(256, description="images of a step")
    learning_rate: Rate = Field(0.4, description="the highest of the schedule")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="of weights, not of biases and BatchNorm")
    label_smoothing: Part = Field(0.1, description="share of a label that is spread over all classes")
    ema_decay: Part = Field(0.998, description="0 switches the weight average off")
    augment: AugmentConfig = AugmentConfig()


class FinetuneConfig(Section):
    RETIRED: ClassVar = {"augmented_forms": "is gone: the teacher remembers each form that comes back"}

    epochs: int = Field(10, ge=0, le=MOST_EPOCHS, description="passes over the train split")
    max_minutes: float | None = Field(
        None, ge=1e-4, le=MOST_MINUTES, description="end it after so many minutes, if epochs are left then"
    )
    batch_size: Images = Field(256, description="images of a step")
    learning_rate: float | None = Field(
        None, gt=0, le=HIGHEST_RATE, description="default: the baseline's divided by 10"
    )
    pruned_lr_factor: float = Field(
        1.0, gt=0, le=1000, description="the learning rate of layers that lost channels, times this"
    )
    muon_step: Part = Field(
        0.0, description="of a convolution's norm, along orthogonalised momentum, in SGD's place (0: SGD)"
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="less than a baseline's: a cut has less to be held back")
    temperature: float = Field(4.0, ge=0.01, le=1000, description="of the answers that are compared with the teacher's")
    distill_weight: float = Field(0.9, ge=0, le=1, description="share of the teacher's logits in the loss")
    feature_weight: Weight = Field(0.0, description="weight of the attention-transfer term (0: none)")
    ema_decay: Part = Field(0.998, description="0 switches the weight average off")
    cut_per_step: float | None = Field(
        None, ge=0.001, lt=1, description="iterative: cut at most this share of what is left, fine-tune, repeat"
    )
    augment: AugmentConfig = AugmentConfig()

    def for_epochs(self, epochs: int) -> "FinetuneConfig":
        """The same for so many epochs, and for as much of the time as they are of the epochs that it has now."""
        minutes = None if self.max_minutes is None else self.max_minutes * epochs / max(self.epochs, 1)
        return self.model_copy(update={"epochs": epochs, "max_minutes": minutes})
