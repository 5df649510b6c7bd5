"""Keys that have no effect beside others: each rule says which, and nothing is said of what is used or not set."""

from typing import Any

import pytest
import yaml
from small_job import CONFIG, autoprune

from autoprune.config import RunConfig
from autoprune.config.file import SHIPPED_CONFIGS, dump_config, parse_config
from autoprune.config.unused import RULES, Job, in_few_words, unused


def told(raw: dict[str, Any], command: Any = "run") -> dict[str, str]:
    """Key by key, the reason why it has no effect."""
    config = parse_config(raw, where="x")
    job = Job(command, is_trained=config.model.checkpoint is not None)
    return {key: because for keys, because in unused(config, job) for key in keys}


TRAINED = {"checkpoint": "x.pt"}
ADAPTIVE = {"enabled": True, "max_ratios": [0.2, 0.35, 1.0]}
CASES: tuple[tuple[dict[str, Any], str, set[str]], ...] = (
    ({"adaptive": {"max_drop": 0.01, "router_rounds": 3}}, "run", {"adaptive.max_drop", "adaptive.router_rounds"}),
    ({"adaptive": {"max_drop": 0.01}}, "adapt", set()),
    ({"nni": {"concurrency": 3}}, "run", {"nni.concurrency"}),
    ({"nni": {"concurrency": 3, "settings": {"seed": 1}}}, "nni", {"nni.settings"}),
    ({"nni": {"tuner": "TPE"}, "search": {"racing": False}}, "nni", {"search.racing"}),
    ({"nni": {"tuner": "TPE", "assessor_settings": {"start_step": 1}}}, "nni", {"nni.assessor_settings"}),
    ({"nni": {"tuner": "TPE", "machines": [{"host": "a"}]}}, "nni", {"nni.machines"}),
    ({"adaptive": {"enabled": True, "max_drop": 0.01}}, "run", set()),
    ({"train": {"epochs": 3, "augment": {"flip": False}}}, "run", set()),
    (
        {"train": {"epochs": 3, "augment": {"flip": False}}, "model": TRAINED},
        "run",
        {"train.epochs", "train.augment.flip"},
    ),
    ({"train": {"learning_rate": 0.2}, "model": TRAINED}, "run", set()),  # a tenth of it fine-tunes
    (
        {"train": {"learning_rate": 0.2}, "model": TRAINED, "finetune": {"learning_rate": 0.1}},
        "run",
        {"train.learning_rate"},
    ),
    ({"search": {"start_share": 0.5}}, "search", {"search.start_share"}),
    ({"search": {"start_share": 0.5}}, "run", set()),  # a search that goes on under corrected limits takes it
    ({"search": {"start_share": 0.5, "trials_from": "runs/a"}}, "search", set()),
    ({"search": {"max_drop_trials": 3}}, "run", {"search.max_drop_trials"}),
    ({"search": {"max_drop_trials": 3}, "target": {"metric": "macs", "max_drop": 0}}, "run", set()),
    ({"search": {"finalists": 1, "finalist_epochs": 2}}, "run", {"search.finalist_epochs"}),
    ({"search": {"finalists": 2, "finalist_epochs": 2}}, "run", set()),
    (
        {"finetune": {"epochs": 0, "learning_rate": 0.1, "augment": {"flip": False}, "cut_per_step": 0.5}},
        "run",
        {"finetune.learning_rate", "finetune.augment.flip"},
    ),
    ({"finetune": {"epochs": 0, "learning_rate": 0.1}, "adaptive": ADAPTIVE}, "run", set()),
    (
        {"finetune": {"epochs": 0, "augment": {"flip": False}}, "target": {"metric": "macs", "max_drop": 0}},
        "run",
        set(),  # views of the search split are mirrored, too
    ),
    ({"finetune": {"temperature": 2, "distill_weight": 0}}, "run", {"finetune.temperature"}),
    ({"finetune": {"temperature": 2}}, "run", set()),
    (
        {"target": {"metric": "macs", "max_ratio": 0.4}, "search": {"finalists": 2}, "measure": {"rounds": 9}},
        "adapt",
        {"target", "search.finalists", "measure.rounds"},
    ),
    (
        {"adaptive": {**ADAPTIVE, "max_ratios": [0.1, 1.0], "levels_from": "runs/a", "max_drop": 0.01}},
        "run",
        {"adaptive.max_ratios"},
    ),
    ({"adaptive": {**ADAPTIVE, "max_ratios": [0.2, 1.0], "trial_epochs": 5}}, "run", {"adaptive.trial_epochs"}),
    ({"adaptive": {**ADAPTIVE, "trial_epochs": 5}}, "run", set()),
    (
        {
            "search": {"agent": "ppo", "max_evaluations": 9, "finalists": 2, "racing": False},
            "adaptive": {"max_drop": 0},
        },
        "apply",
        {"search.agent", "search.max_evaluations", "search.finalists", "search.racing", "adaptive.max_drop"},
    ),
    ({"search": {"agent": "ppo", "max_evaluations": 9}, "adaptive": ADAPTIVE}, "apply", set()),  # levels are searched
    (
        {
            "train": {"learning_rate": 0.2},
            "finetune": {"epochs": 3, "learning_rate": 0.1},
            "adaptive": {"max_drop": 0},
            "search": {"agent": "ppo", "verify_top": 3, "racing": False},
            "measure": {"threads": 1, "rounds": 9, "batch_size": 2},
            "model": TRAINED,
        },
        "search",
        {
            "train.learning_rate",
            "finetune.epochs",
            "finetune.learning_rate",
            "adaptive.max_drop",
            "search.verify_top",
            "measure.rounds",
        },
    ),
    (
        {
            "seed": 1,
            "search": {"agent": "ppo", "max_evaluations": 9, "finalists": 2},
            "finetune": {"learning_rate": 0.1, "cut_per_step": 0.5},
            "measure": {"rounds": 9},
        },
        "compare",
        {"seed", "search.agent", "search.finalists", "finetune.cut_per_step"},
    ),
    ({"workers": {"count": 3}}, "run", {"workers.count"}),
    ({"search": {"study": "journal:study", "study_name": "a"}}, "compare", {"search.study", "search.study_name"}),
    ({"search": {"study_name": "a"}}, "run", {"search.study_name"}),
    ({"measure": {"allow_estimated_energy": True}}, "run", {"measure.allow_estimated_energy"}),
    (
        {"measure": {"allow_estimated_energy": True}, "target": {"metric": "energy", "max_ratio": 0.5}},
        "run",
        set(),
    ),
    (
        {"problem": "toy", "seed": 3, "search": {"agent": "sac", "importance": "taylor", "reward": {"form": "amc"}}},
        "search",
        {"search.importance"},
    ),
    (
        {"problem": "toy", "target": {"metric": "macs", "max_ratio": 0.4}, "model": {"name": "vgg16_bn"}},
        "compare",
        {"target", "model.name"},
    ),
)


@pytest.mark.parametrize(("raw", "command", "keys"), CASES)
def test_what_has_no_effect_is_named(raw: dict[str, Any], command: str, keys: set[str]) -> None:
    assert set(told(raw, command)) == keys


def test_every_rule_is_tried() -> None:
    tried = {because for raw, command, _ in CASES for because in told(raw, command).values()}
    assert tried == {rule.because for rule in RULES}


def test_the_keys_of_rules_are_keys() -> None:
    written = RunConfig().model_dump()
    for rule in RULES:
        for key in rule.keys.split():
            node: Any = written
            for part in key.split("."):
                node = node[part]


def test_each_key_is_named_once() -> None:
    raw = {"finetune": {"epochs": 0, "temperature": 2, "distill_weight": 0}, "search": {"finalists": 1}}
    named = [key for keys, _ in unused(parse_config(raw, where="x"), Job("run")) for key in keys]
    assert sorted(named) == ["finetune.distill_weight", "finetune.temperature"]


@pytest.mark.parametrize("command", ["run", "apply", "adapt", "search", "compare"])
@pytest.mark.parametrize("preset", ["quick", "standard", "thorough"])
def test_nothing_is_said_of_defaults_presets_and_what_a_run_has_stored(command: Any, preset: str) -> None:
    config = parse_config({"preset": preset}, where="x")
    stored = parse_config(RunConfig.model_validate(config.model_dump()).model_dump(), where="x")
    for one in (config, stored):
        assert list(unused(one, Job(command))) == []


def test_shipped_configurations_say_nothing_of_themselves() -> None:
    for path in SHIPPED_CONFIGS.glob("*.yaml"):
        commands = {"toy": "search", "nni_fashion_mnist": "nni"}
        command = "adapt" if "adaptive" in path.stem else commands.get(path.stem, "run")
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert told(raw, command) == {}, path.name


def test_the_command_line_says_it_before_the_work(tmp_path: Any) -> None:
    command = ("search", "toy", "-o", "search.max_evaluations=4", "-o", "search.importance=taylor", "--agent", "random")
    ended = autoprune(*command, "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert lines[0].startswith(
        "search.importance: without effect here, because problem is toy, which has neither model"
    )
    assert "without effect" not in "\n".join(lines[1:])
    again = autoprune(*command, "--run-dir", tmp_path / "quiet", "--quiet")
    assert "without effect" not in again.stderr
    resumed = autoprune("search", tmp_path / "run" / "config.yaml", "--run-dir", tmp_path / "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr


def test_the_small_job_is_read_from_its_dump() -> None:
    config = parse_config(CONFIG, where="x")
    assert "advanced:" in dump_config(config)
    assert told(CONFIG) == {}


def test_many_keys_of_a_section_are_told_as_that() -> None:
    many = [f"finetune.{name}" for name in ("epochs", "batch_size", "temperature", "augment.flip")]
    assert in_few_words(["measure.rounds", *many]) == ["measure.rounds", "finetune (4 keys)"]
    assert in_few_words(many[1:]) == many[1:]
