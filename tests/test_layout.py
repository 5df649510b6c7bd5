"""How a file is laid out: what stands below `advanced`, presets, and that a stored configuration stays the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from autoprune.config import AdaptiveConfig, FinetuneConfig, RewardConfig, RunConfig, SearchConfig, TargetConfig
from autoprune.config import presets as presets_of_config
from autoprune.config.file import SHIPPED_CONFIGS, dump_config, load_config, parse_config
from autoprune.config.layout import ADVANCED, BASIC, section_of
from autoprune.config.presets import PRESETS
from autoprune.errors import ConfigError

NEW = {
    "search": {"agent": "ppo"},
    "finetune": {"epochs": 7},
    "advanced": {
        "search": {"finalists": 6, "settings": {"hidden": 8}, "reward": {"form": "amc"}},
        "train": {"augment": {"flip": False}},
    },
}
OLD = {
    "search": {"agent": "ppo", "finalists": 6, "settings": {"hidden": 8}, "reward": {"form": "amc"}},
    "finetune": {"epochs": 7},
    "train": {"augment": {"flip": False}},
}


def read(raw: dict[str, Any], tmp_path: Path, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_config(path, overrides)


def refused(raw: dict[str, Any], tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(raw, tmp_path, *overrides)
    return str(caught.value)


def leaves(node: Any, key: str = "") -> set[str]:
    """Dotted keys; a list, and the settings of a searcher, are values."""
    if not isinstance(node, dict) or key.endswith("settings"):
        return {key}
    return set().union(*(leaves(value, f"{key}.{name}" if key else name) for name, value in node.items()))


def test_advanced_keys_may_stand_below_advanced_or_in_their_sections(tmp_path: Path) -> None:
    ours = read(NEW, tmp_path)
    assert ours == read(OLD, tmp_path)
    assert (ours.search.agent, ours.search.finalists, ours.search.settings) == ("ppo", 6, {"hidden": 8})
    assert (ours.search.reward.form, ours.train.augment.flip) == ("amc", False)
    assert read({"advanced": None, "search": None}, tmp_path) == RunConfig()
    assert read({"advanced": {"search": None, "train": {}}}, tmp_path) == RunConfig()


def test_a_dump_has_every_key_once_and_the_short_section_first(tmp_path: Path) -> None:
    dumped = yaml.safe_load(dump_config(read(NEW, tmp_path)))
    assert list(dumped)[:3] == ["preset", "problem", "seed"]
    assert list(dumped)[-1] == ADVANCED
    basic, advanced = leaves({key: value for key, value in dumped.items() if key != ADVANCED}), leaves(dumped[ADVANCED])
    assert not basic & advanced
    assert basic | advanced == leaves(RunConfig().model_dump())
    assert basic == {
        f"{name}.{key}" if name else key for name, keys in BASIC.items() if name != "target" for key in keys
    }
    assert dumped["search"] == {"agent": "ppo", "max_evaluations": 120}
    assert dumped["advanced"]["search"]["finalists"] == 6


def test_the_table_of_basic_keys_is_short_and_names_keys_that_there_are() -> None:
    named = [(name, key) for name, keys in BASIC.items() for key in keys if section_of(RunConfig, key) is None]
    assert 18 <= len(named) - 1 <= 24  # without `target`, whose own keys are among them
    for name, key in named:
        section: type[BaseModel] | None = RunConfig
        if name:
            section = TargetConfig if name == "target" else section_of(RunConfig, name)
        assert section is not None
        assert key in section.model_fields, f"{name}.{key}"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"advanced": 5}, "advanced: must be a section with the keys model, data, train, search, finetune, adaptive,"),
        ({"advanced": {"search": 5}}, "advanced.search: must be a section with the keys settings, importance,"),
        (
            {"advanced": {"serch": {}}},
            "advanced: unknown key serch (did you mean search?); allowed are model,",
        ),
        ({"advanced": {"search": {"agnt": 1}}}, "advanced.search: unknown key agnt; allowed are settings, importance,"),
        ({"advanced": {1: 2}}, "advanced: unknown key 1; allowed are"),
        ({"advanced": {"train": {"augment": {"crop": 1}}}}, "advanced.train.augment: unknown key crop"),
        ({"advanced": {"search": {"agent": "ppo"}}}, "advanced.search.agent: is no advanced key; write search.agent"),
        ({"advanced": {"seed": 1}}, "advanced.seed: is no advanced key; write seed"),
        ({"advanced": {"target": []}}, "advanced.target: is no advanced key; write target"),
        ({"advanced": {"search": {"finalists": "x"}}}, "advanced.search.finalists: must be a valid integer"),
        ({"search": {"finalists": "x"}}, "run.yaml: search.finalists: must be a valid integer"),
        ({"advanced": {"search": {"finalists": 0}}}, "advanced.search.finalists: must be greater than 0, got 0"),
        (
            {"advanced": {"search": {"reward": {"cost_weight": 2}}}},
            "advanced.search.reward: cost_weight is for form weighted",
        ),
        ({"search": {"agnt": 1}, "advanced": {"search": {"finalists": 3}}}, "run.yaml: search: unknown key agnt"),
        ({"search": 5, "advanced": {"search": {"finalists": 3}}}, "run.yaml: search: must be a section"),
        (
            {"advanced": {"adaptive": {"epochs": 0}}, "adaptive": {"max_drop": 2}},
            "run.yaml: advanced.adaptive.epochs: must be greater than 0, got 0; adaptive.max_drop: must be less than 1",
        ),
        (
            {"search": {"finalists": 4}, "advanced": {"search": {"finalists": 6}}},
            "advanced.search.finalists: is 6, but search.finalists is 4; they are one key: leave one out",
        ),
        (
            {"search": {"trials_from": None}, "advanced": {"search": {"trials_from": "a"}}},
            "advanced.search.trials_from: is 'a', but search.trials_from is None",
        ),
    ],
)
def test_each_mistake_is_told_with_its_key_as_it_was_written(raw: dict[str, Any], said: str, tmp_path: Path) -> None:
    text = refused(raw, tmp_path)
    assert said in text
    assert "run.yaml: " in text


def test_one_value_in_both_places_is_no_mistake(tmp_path: Path) -> None:
    both = {"search": {"finalists": 6}, "advanced": {"search": {"finalists": 6}}}
    assert read(both, tmp_path).search.finalists == 6


@pytest.mark.parametrize(
    ("override", "finalists", "settings", "agent"),
    [
        ("search.finalists=3", 3, {"hidden": 8}, "ppo"),
        ("advanced.search.finalists=3", 3, {"hidden": 8}, "ppo"),
        ("advanced={search: {finalists: 3}}", 3, {"hidden": 8}, "ppo"),
        ("advanced.search={finalists: 3}", 3, {"hidden": 8}, "ppo"),
        ("search={finalists: 3}", 3, {}, "ddpg"),  # a section as a whole
        ("search.settings={depth: 2}", 6, {"depth": 2}, "ppo"),
        ("advanced.search.settings={depth: 2}", 6, {"depth": 2}, "ppo"),
        ("search.settings.depth=2", 6, {"hidden": 8, "depth": 2}, "ppo"),
        ("advanced.search.settings.depth=2", 6, {"hidden": 8, "depth": 2}, "ppo"),
        ("search.agent=sac", 6, {"hidden": 8}, "sac"),
    ],
)
@pytest.mark.parametrize("raw", [NEW, OLD], ids=["new", "old"])
def test_overrides_are_of_the_same_keys_wherever_the_file_has_them(
    raw: dict[str, Any], override: str, finalists: int, settings: dict[str, int], agent: str, tmp_path: Path
) -> None:
    search = read(raw, tmp_path, override).search
    assert (search.finalists, search.settings, search.agent) == (finalists, settings, agent)


def test_an_override_holds_and_names_the_mistake(tmp_path: Path) -> None:
    for override in ("advanced.search.finalists=3", "search.finalists=3"):
        assert read(NEW, tmp_path, override).search.finalists == 3
    assert "search.finalists: is set twice" in refused(
        NEW, tmp_path, "search.finalists=2", "advanced.search.finalists=3"
    )
    assert "run.yaml: search.finalists: must be" in refused(NEW, tmp_path, "search.finalists=0")
    assert "run.yaml: advanced.search.finalists: must be" in refused(OLD, tmp_path, "advanced.search.finalists=0")
    for override, said in (
        ("advanced.search.agent=ppo", "-o advanced.search.agent=ppo: advanced.search.agent: is no advanced key"),
        ("advanced.speed=2", "-o advanced.speed=2: advanced: unknown key speed"),
        ("advanced=2", "-o advanced=2: advanced: must be a section"),
        ("advanced.search=2", "advanced.search: must be a section"),
        ("advanced.search.finalists.deep=2", "'deep' is not a section"),
        ("advanced.target.0.max_ratio=0.3", "advanced.target: is no advanced key; write target"),
    ):
        assert said in refused(NEW, tmp_path, override)


def test_a_preset_gives_way_to_what_is_said_wherever_it_stands(tmp_path: Path) -> None:
    quick = read({"preset": "quick"}, tmp_path)
    assert (quick.search.max_evaluations, quick.finetune.epochs) == (60, 3)
    assert quick == read({}, tmp_path, "preset=quick")
    own = read({"preset": "quick", "advanced": {"search": {"finalists": 7}}}, tmp_path, "finetune.epochs=9")
    assert (own.search.finalists, own.finetune.epochs, own.search.max_evaluations) == (7, 9, 60)
    assert read({"preset": "standard"}, tmp_path) == RunConfig()
    sections = RunConfig(preset="quick", search=SearchConfig(agent="ppo", reward=RewardConfig(form="amc")))
    assert (sections.search.agent, sections.search.reward.form) == ("ppo", "amc")
    assert sections.search.max_evaluations == 60
    assert RunConfig(preset="quick", finetune=FinetuneConfig(epochs=10)).finetune.epochs == 10  # said, if the default


def test_presets_hold_values_of_basic_or_advanced_keys_and_thorough_takes_no_less_than_quick() -> None:
    quick, standard, thorough = (RunConfig.model_validate({"preset": name}) for name in PRESETS)
    assert (quick.preset, standard.preset, thorough.preset) == ("quick", "standard", "thorough")
    for key in dict.fromkeys(key for values in PRESETS.values() for key in values):
        section, name = key.split(".")
        low, middle, high = (getattr(getattr(config, section), name) for config in (quick, standard, thorough))
        assert low <= middle <= high, key
        assert low < high, key


@pytest.mark.parametrize("preset", PRESETS)
def test_a_stored_configuration_is_the_same_whatever_its_preset_becomes(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config({"preset": preset, "finetune": {"epochs": 5}}, where="x")
    text = dump_config(config)
    changed = {"search.max_evaluations": 1, "search.finalists": 99, "finetune.epochs": 77, "measure.rounds": 9}
    monkeypatch.setattr(presets_of_config, "PRESETS", dict.fromkeys(PRESETS, changed))
    assert parse_config({"preset": preset}, where="x").search.finalists == 99
    assert parse_config(yaml.safe_load(text), where="x") == config


def test_shipped_configurations_are_in_the_new_form() -> None:
    """None says an advanced key outside `advanced`."""
    for path in SHIPPED_CONFIGS.glob("*.yaml"):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, keys in raw.items():
            if isinstance(keys, dict) and section not in (ADVANCED, "target"):
                assert set(keys) <= set(BASIC[section]), (path.name, section)


def test_the_longest_recipe_is_what_thorough_is() -> None:
    thorough = load_config(SHIPPED_CONFIGS / "fashion_mnist_resnet20.yaml")
    assert (thorough.search.max_evaluations, thorough.search.finalists, thorough.finetune.epochs) == (160, 8, 64)
    assert thorough.adaptive == AdaptiveConfig()
