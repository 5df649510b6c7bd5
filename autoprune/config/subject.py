"""What a run works on: the model and the data."""

from pydantic import Field, model_validator

from autoprune.config.section import MOST_IMAGES, FileName, FileNameOrNone, ImagesOrNone, Section

LEAST_STD = 1e-4  # of pixels in 0..1: less is no spread of a byte


def _listed(values: tuple[float, ...] | None) -> str:
    return "nothing" if values is None else f"[{', '.join(f'{value:g}' for value in values)}]"


class ModelConfig(Section):
    name: FileName = Field(
        "resnet20", description="built in, torchvision:NAME, timm:NAME, file.py:factory, package:factory"
    )
    width: float = Field(1.0, gt=0, le=8, description="width multiplier of a built-in model")
    checkpoint: FileNameOrNone = Field(None, description="tensors only: safetensors, a torch file, or a shipped name")
    checkpoint_key: str | None = Field(None, description="which weights of several in that file, for example ema")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> "ModelConfig":
        if self.checkpoint_key is not None and self.checkpoint is None:
            raise ValueError(
                "model.checkpoint_key chooses among the weights in a file: give checkpoint too, or leave it out"
            )
        if self.width != 1 and self.name.startswith(("torchvision:", "timm:")):
            raise ValueError(f"model.width is of built-in models and of factories that name it; {self.name} takes none")
        return self


class DataConfig(Section):
    name: FileName = Field("fashion-mnist", description="fashion-mnist, imagefolder:DIR or path/file.py:factory")
    search_images: int | None = Field(
        None,
        gt=0,
        le=MOST_IMAGES,
        description="images cut from train for search and model selection; default: 5,000, a fifth of train at most",
    )
    split_seed: int = Field(0, ge=0, lt=2**63, description="seed of that cut; independent of the run's seed")
    image_size: int | None = Field(None, ge=4, le=4096, description="scale and crop pictures to this many pixels")
    mean: tuple[float, ...] | None = Field(None, description="per channel, of pixels in 0..1; default: that of train")
    std: tuple[float, ...] | None = Field(None, description="the same; what a model was trained with goes here")
    max_train_images: ImagesOrNone = Field(None, description="a stratified subset of train, for quick trials")
    max_test_images: ImagesOrNone = Field(None, description="a stratified subset of test, for quick trials")

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
