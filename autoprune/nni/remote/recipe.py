"""A recipe as files that run no code: what NNI uploads to the machines that score trials.

`config.yaml`; for a model also `recipe.json` (what was measured), `weights.safetensors` and `importance.safetensors`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
from pydantic import TypeAdapter

import autoprune
from autoprune.config.file import dump_config, load_config
from autoprune.data import load_search_data
from autoprune.errors import InputError, RunError
from autoprune.foundation.files import atomic_path, write_text
from autoprune.models import ModelSpec
from autoprune.search.prepare import Measured
from autoprune.search.problem import SearchProblem
from autoprune.search.toy import toy_problem
from autoprune.steps.context import Context, Workspace
from autoprune.steps.recipe import Recipe
from autoprune.store.kept import Kept, closed

CONFIG, FACTS, WEIGHTS, IMPORTANCE = "config.yaml", "recipe.json", "weights.safetensors", "importance.safetensors"


@closed
@dataclass(frozen=True)
class Facts:
    """What of a recipe is no tensor and not in the configuration."""

    version: str  # of autoprune
    model: ModelSpec
    measured: Measured  # without its channel scores


FORM = Kept("recipe", TypeAdapter(Facts))


def write_recipe(place: Workspace, folder: Path) -> None:
    """What another machine makes the problem of this job from."""
    write_text(folder / CONFIG, dump_config(place.config))
    if not isinstance(place, Context):  # the toy problem: its configuration is all
        return
    recipe = Recipe.of(place.config, place.subject, place.prepared)
    if not isinstance(recipe.model, ModelSpec) or recipe.data is not None:
        raise InputError("nni.platform=remote: a model or data that came as objects cannot go to another machine")
    facts = Facts(autoprune.__version__, recipe.model, replace(recipe.measured, channel_scores={}))
    write_text(folder / FACTS, FORM.text(facts))
    for name, tensors in ((WEIGHTS, recipe.weights), (IMPORTANCE, recipe.measured.channel_scores)):
        whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        with atomic_path(folder / name) as temporary:
            safetensors.torch.save_file(whole, temporary)


def problem_from(folder: Path, *, data: str | None = None) -> SearchProblem:
    """The problem of the recipe in `folder`; its images are those of `data`, where this machine has them under another
    name than the configuration says.

    Raises `RunError` if they, or a user's file, are not those that the run has.
    """
    config = load_config(folder / CONFIG)
    if config.problem == "toy":
        return toy_problem(None, config.search.reward)
    facts = _facts(folder / FACTS)
    measured = replace(facts.measured, channel_scores=safetensors.torch.load_file(folder / IMPORTANCE))
    named = config.data if data is None else config.data.model_copy(update={"name": data})
    images = load_search_data(named)
    images = replace(images, info=replace(images.info, name=config.data.name))
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    return Recipe(config, measured, facts.model, weights, images).make()


def _facts(path: Path) -> Facts:
    try:
        facts = FORM.read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a recipe of this version of autoprune ({error})") from None
    if facts.version != autoprune.__version__:
        raise RunError(
            f"the run has autoprune {facts.version}, this machine {autoprune.__version__}; install the same on both"
        )
    return facts
