"""Presets: how much time a run may take, as values of the keys that cost it."""

from collections.abc import Mapping
from typing import Any, Literal

from autoprune.config.section import Section

Preset = Literal["quick", "standard", "thorough"]

# `standard` is what the sections say by themselves; `thorough` what the longer recipes of `configs/` use.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "train.epochs": 10,
        "search.max_evaluations": 60,
        "search.score_images": 500,
        "search.verify_top": 4,
        "search.finalists": 2,
        "search.max_drop_trials": 3,
        "finetune.epochs": 3,
        "adaptive.trial_epochs": 1,
        "adaptive.router_rounds": 12,
        "measure.rounds": 30,
    },
    "standard": {},
    "thorough": {
        "search.max_evaluations": 160,
        "search.finalists": 8,
        "finetune.epochs": 64,
    },
}


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a configuration with the values of its preset for those keys that are not given."""
    filled = dict(given)
    preset = given.get("preset")
    for key, value in PRESETS.get(preset, {}).items() if isinstance(preset, str) else ():
        section, name = key.split(".")
        said = filled.get(section)
        if isinstance(said, Section):
            said = said.model_dump(exclude_unset=True)
        if said is None or isinstance(said, dict):
            filled[section] = {name: value, **(said or {})}
    return filled
