"""The configuration: what is accepted, what each mistake is told, and that a dump comes back equal."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import FinetuneConfig, RunConfig, SearchConfig, TargetConfig, check_bounds
from autoprune.config import file as config_file
from autoprune.config.file import dump_config, find_config, load_config, parse_config
from autoprune.config.yaml_text import parse_yaml
from autoprune.errors import ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, where="run.yaml")
    return str(caught.value)


def test_an_empty_file_and_empty_sections_mean_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == RunConfig()
    assert load_config(written(tmp_path, "search:\ntrain:\n  # epochs: 3\n")) == RunConfig()
    assert RunConfig().target == (TargetConfig(metric="latency", max_ratio=0.5),)


def test_sections_may_be_given_as_objects() -> None:
    target = TargetConfig(metric="macs", max_ratio=0.4)
    made = RunConfig.model_validate({"search": SearchConfig(agent="ppo"), "target": target})
    assert made.search.agent == "ppo"
    assert made.target == (target,)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().search.agent = "ppo"  # type: ignore[misc]


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 5e-4 as text."""
    assert load_config(written(tmp_path, "train: {weight_decay: 5e-4}")).train.weight_decay == 0.0005


def test_one_target_or_a_list_of_them(tmp_path: Path) -> None:
    single = load_config(written(tmp_path, "target: {metric: latency, max_value: 250, unit: us}"))
    assert single.target == (TargetConfig(metric="latency", max_value=250, unit="us"),)
    both = "target: [{metric: latency, max_ratio: 0.5}, {metric: params, max_value: 1000, unit: count}]"
    assert [target.metric for target in load_config(written(tmp_path, both)).target] == ["latency", "params"]


def test_a_bound_that_is_to_be_found() -> None:
    hard = {"metric": "params", "max_value": 9, "unit": "count"}
    config = parse_config({"target": [hard, {"metric": "latency", "max_drop": 0.0}]}, where="x")
    assert config.drop_target == TargetConfig(metric="latency", max_drop=0.0)
    trial = config.at_ratio(0.25)
    assert trial.target == (TargetConfig.model_validate(hard), TargetConfig(metric="latency", max_ratio=0.25))
    assert trial.drop_target is None
    check_bounds(trial)
    with pytest.raises(ConfigError, match=r"^target\.max_drop: .* -o 'target={metric: latency, max_ratio: 0\.5}'$"):
        check_bounds(config)
    assert RunConfig().at_ratio(0.25) == RunConfig()


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (
            {"serch": {}},
            [
                "unknown key serch (did you mean search?); ",
                "allowed are preset, problem, seed, task, model",
                "measure, nni, workers, own_kernels, advanced",
            ],
        ),
        ({"model": {"name": "timm:x", "width": 0.5}}, ["model.width is of built-in models", "timm:x takes none"]),
        ({"finetune": {"augment": {"square_prob": 0.5}}}, ["finetune.augment: square_prob is of a square"]),
        ({"preset": "fast"}, ["preset: must be 'quick', 'standard' or 'thorough', got 'fast'"]),
        ({"preset": ["quick"]}, ["preset: must be 'quick', 'standard' or 'thorough', got ['quick']"]),
        ({"preset": "quick", "search": []}, ["search: must be a section with the keys agent", "got []"]),
        ({"search": {"agnet": "ppo"}}, ["search: unknown key agnet", "allowed are agent"]),
        ({1: 2}, ["unknown key 1"]),
        ({"search": {"agent": "dqn"}}, ["search.agent: must be one of ddpg", ", uniform, or path", "got 'dqn'"]),
        ({"search": 5}, ["search: must be a section", "max_evaluations", "got 5"]),
        ({"train": {"epochs": "many"}}, ["train.epochs: must be a valid integer", "got 'many'"]),
        ({"train": {"epochs": "1e3"}}, ["train.epochs: must be a valid integer", "got '1e3'; write 1000"]),
        ({"train": {"epochs": 1.5}}, ["train.epochs: must be a valid integer", "got 1.5"]),
        ({"train": {"epochs": 0}}, ["train.epochs: must be greater than 0, got 0"]),
        ({"train": {"epochs": True}}, ["train.epochs: must not be true or false, got True"]),
        ({"train": {"learning_rate": float("inf")}}, ["train.learning_rate: must be a finite number, got inf"]),
        ({"train": {"augment": {"crop": 2}}}, ["train.augment: unknown key crop", "allowed are crop_padding"]),
        ({"seed": 2**31}, ["seed: must be less than 2147483648, got 2147483648"]),
        ({"model": {"checkpoint": 5}}, ["model.checkpoint: must be a valid string, got 5"]),
        ({"model": {"checkpoint_key": "ema"}}, ["model.checkpoint_key chooses among the weights in a file"]),
        ({"data": {"image_size": 1}}, ["data.image_size: must be greater than or equal to 4, got 1"]),
        ({"data": {"image_size": 10**6}}, ["data.image_size: must be less than or equal to 4096"]),
        ({"data": {"mean": [0.5]}}, ["give data.mean and data.std together", "got mean [0.5], std nothing"]),
        ({"data": {"mean": [0.5], "std": [0.5, 0.5]}}, ["a number per channel each", "std [0.5, 0.5]"]),
        ({"data": {"mean": [], "std": []}}, ["a number per channel each"]),
        ({"data": {"mean": 0.5, "std": 0.5}}, ["data.mean: must be a valid", "data.std: must be a valid"]),
        ({"data": {"mean": [123.7], "std": [58.4]}}, ["data: mean: must be within 0..1 (a pixel of 255 is 1)"]),
        ({"data": {"mean": [0.5], "std": [58.4]}}, ["data: std: must be within 0.0001..1", "got [58.4]"]),
        ({"data": {"mean": [0.5], "std": [0]}}, ["data: std: must be within 0.0001..1", "got [0]"]),
        ({"data": {"mean": [-0.1], "std": [0.2]}}, ["data: mean: must be within 0..1"]),
        ({"data": {"mean": [float("nan")], "std": [0.2]}}, ["data.mean.0: must be a finite number, got nan"]),
        ({"target": {"metric": "latency"}}, ["target.0: give one of max_ratio, max_value with unit, or max_drop"]),
        (
            {"target": {"metric": "latency", "max_ratio": 0.5, "max_value": 1, "unit": "ms"}},
            ["target.0: give one of max_ratio, max_value with unit, or max_drop"],
        ),
        ({"target": {"metric": "macs", "max_ratio": 0.5, "max_drop": 0}}, ["target.0: give one of max_ratio,"]),
        ({"target": {"metric": "macs", "max_drop": 0, "unit": "count"}}, ["target.0: max_drop has no unit"]),
        ({"target": {"metric": "macs", "max_drop": -0.1}}, ["target.0.max_drop: must be greater than or equal to 0"]),
        ({"target": {"metric": "macs", "max_drop": 1}}, ["target.0.max_drop: must be less than 1, got 1"]),
        (
            {"target": [{"metric": "macs", "max_drop": 0}, {"metric": "latency", "max_drop": 0.01}]},
            ["target: only one target may have max_drop; give the others max_ratio or max_value"],
        ),
        ({"search": {"max_drop_trials": 0}}, ["search.max_drop_trials: must be greater than 0, got 0"]),
        ({"target": {"metric": "latency", "max_value": 1}}, ["unit of a latency target must be one of ['ms', 'us']"]),
        ({"target": {"metric": "macs", "max_value": 1, "unit": "ms"}}, ["must be one of ['count']"]),
        ({"target": {"metric": "macs", "max_ratio": 0.5, "unit": "count"}}, ["max_ratio has no unit"]),
        ({"target": {"max_ratio": 0.5}}, ["target.0.metric: is required"]),
        ({"target": {"metric": "latency", "max_ratio": 1.5}}, ["target.0.max_ratio: must be less than or equal to 1"]),
        ({"target": []}, ["target: must be a bound such as {metric: latency, max_ratio: 0.5} or a list, got []"]),
        ({"target": 0.5}, ["target: must be a bound", "got 0.5"]),
    ],
)
def test_each_mistake_is_told_with_its_key(raw: dict[str, Any], parts: list[str]) -> None:
    text = message(raw)
    assert text.startswith("run.yaml: ")
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_all_mistakes_are_told_at_once() -> None:
    text = message({"train": {"epochs": 0}, "search": {"agent": "dqn"}, "measure": {"rounds": "x"}})
    assert all(key in text for key in ("train.epochs", "search.agent", "measure.rounds"))


def test_which_keys_need_energy() -> None:
    target = {"metric": "energy", "max_ratio": 0.5}
    assert parse_config({"target": target}, where="x").energy_keys == ("target",)
    weighted = parse_config({"search": {"reward": {"form": "weighted", "cost": "energy", "cost_weight": 1}}}, where="x")
    assert weighted.energy_keys == ("search.reward.cost",)
    assert not parse_config({"search": {"reward": {"form": "constrained"}}}, where="x").uses_energy


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "a configuration is a mapping of keys, not a list"),
        ("just words", "not a str"),
        ("seed: [1", "not valid YAML (line 1: "),
        ("seed: 1\n  model: x: y", "not valid YAML (line 2: "),
        ("seed: !!python/object/apply:os.system ['touch pwned']", "not valid YAML (line 1: could not determine a con"),
        ("\x00", "not valid YAML ("),
        ("seed: 2026-99-99", "not valid YAML ("),
        ("a: &a [*a", "not valid YAML ("),
        ("seed: 010", "not valid YAML (line 1: '010' would be read as 8; write a decimal number, or quote a text)"),
        ("a: 1\nseed: 1:30", "not valid YAML (line 2: '1:30' would be read as 90; write a decimal number"),
        ("seed: 0x10", "'0x10' would be read as 16"),
        ("seed: [-0b11]", "'-0b11' would be read as -3"),
        ("seed: 1:30.5", "'1:30.5' would be read as 90.5"),
    ],
)
def test_what_is_no_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-12", -12), ("1_000", 1000), (".5", 0.5), ("1.", 1.0), ("1.5e-3", 0.0015), ("'010'", "010")],
)
def test_decimal_numbers_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_yaml(text, where="x") == value


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("model: {name: é}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_overrides_reach_sections_lists_and_missing_keys(tmp_path: Path) -> None:
    path = written(tmp_path, "search:\ntarget: [{metric: latency, max_ratio: 0.5}]")
    overrides = [
        "search.agent=ppo",
        "search.reward.form=amc",
        "target.0.max_ratio=0.4",
        "train.augment.flip=false",
        "model.checkpoint=null",
        "measure={rounds: 9, threads: 2}",
        "train.weight_decay=1e-4",
    ]
    config = load_config(path, overrides)
    assert (config.search.agent, config.search.reward.form) == ("ppo", "amc")
    assert config.target == (TargetConfig(metric="latency", max_ratio=0.4),)
    assert config.train.augment.flip is False
    assert config.model.checkpoint is None
    assert (config.measure.rounds, config.measure.threads) == (9, 2)
    assert config.train.weight_decay == 1e-4


def test_an_override_changes_one_of_two_sections_that_share_a_yaml_anchor(tmp_path: Path) -> None:
    path = written(tmp_path, "train: {augment: &same {crop_padding: 3}}\nfinetune: {augment: *same}")
    config = load_config(path, ["train.augment.crop_padding=1"])
    assert (config.train.augment.crop_padding, config.finetune.augment.crop_padding) == (1, 3)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("search.agent", "expected key=value"),
        ("=ppo", "expected key=value"),
        ("search..agent=ppo", "expected key=value"),
        ("search.agent=[", "-o search.agent=[: not valid YAML"),
        ("seed.deep=1", "'deep' is not a section"),
        ("target.7.max_ratio=1", "'7' is not a section"),
        ("search=5", "search: must be a section"),
        ("search.agnet=ppo", "search: unknown key agnet"),
        ("nothing.at.all=1", "unknown key nothing"),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, part: str) -> None:
    path = written(tmp_path, "seed: 3\ntarget: [{metric: latency, max_ratio: 0.5}]")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("search.agent=ppo", "search.agent=td3"),
            r"^search\.agent: is set twice, to 'ppo' and 'td3', by -o or an option of its own; leave",
        ),
        (("advanced.search.finalists=2", "search.finalists=3"), r"^search\.finalists: is set twice, to 2 and 3"),
        (("search.agent=ppo", "search.agent='ppo'"), None),
        (("seed=1", "seed=true"), r"^seed: is set twice, to 1 and True"),
        (("search.min_keep=.nan",), r"search\.min_keep: must be (?!.*set twice)"),
        (("search={agent: ppo}", "search.agent=td3"), None),  # a key of what was set as a whole
    ],
)
def test_a_key_is_set_once(tmp_path: Path, overrides: tuple[str, ...], message: str | None) -> None:
    path = written(tmp_path, "search: {agent: sac}")
    if message is None:
        load_config(path, overrides)
        return
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides)


names = st.text(min_size=1, max_size=20).filter(lambda name: name.strip() and "\0" not in name and name.isprintable())
configs = st.builds(
    lambda **raw: parse_config(raw, where="hypothesis"),
    seed=st.integers(0, 2**31 - 1),
    model=st.fixed_dictionaries({"name": names, "checkpoint": st.none() | names}),
    train=st.fixed_dictionaries(
        {
            "learning_rate": st.floats(1e-12, 10),
            "weight_decay": st.just(0) | st.floats(1e-12, 1),
            "augment": st.fixed_dictionaries({"flip": st.booleans(), "crop_padding": st.integers(0, 9)}),
        }
    ),
    target=st.lists(
        st.builds(lambda ratio: {"metric": "latency", "max_ratio": ratio}, st.floats(1e-12, 1))
        | st.builds(lambda value: {"metric": "macs", "max_value": value, "unit": "count"}, st.floats(1e-12, 1e18)),
        min_size=1,
        max_size=3,
    ),
)


@given(configs)
def test_a_dump_comes_back_equal(config: RunConfig) -> None:
    text = dump_config(config)
    assert parse_config(yaml.safe_load(text), where="dump") == config
    assert dump_config(parse_config(yaml.safe_load(text), where="dump")) == text


def test_a_dump_comes_back_equal_through_a_file(tmp_path: Path) -> None:
    name = "módel:π \x85"  # the last is a line break to YAML
    config = parse_config({"model": {"name": name}, "search": {"agent": "sac"}, "seed": 7}, where="x")
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_shipped_names_are_found_and_files_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "package" / "configs"
    shipped.mkdir(parents=True)
    (shipped / "demo.yaml").write_text("seed: 1")
    (shipped / "long.yaml").write_text("seed: 2")
    monkeypatch.setattr(config_file, "SHIPPED_CONFIGS", shipped)
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "configs/demo.yaml", "configs/demo"):
        assert find_config(name) == shipped / "demo.yaml"
    for name in ("nope", "demo.txt", "other/demo.yaml", "/configs/demo.yaml", "."):
        with pytest.raises(ConfigError) as caught:
            find_config(name)
        assert str(caught.value) == f"{name}: no such file; shipped configurations are demo, long"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("seed: 3")
    assert load_config(find_config("configs/demo.yaml")).seed == 3
    assert load_config(find_config("demo")).seed == 1


def test_every_shipped_configuration_is_found_by_name_and_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = sorted(path.stem for path in config_file.SHIPPED_CONFIGS.glob("*.yaml"))
    assert "demo" in names
    for name in names:
        assert isinstance(load_config(find_config(name)), RunConfig)


def test_a_key_that_runs_of_an_earlier_version_wrote_is_left_aside_where_it_changed_nothing() -> None:
    assert parse_config({"finetune": {"augmented_forms": None}}, where="old") == RunConfig()
    with pytest.raises(ConfigError, match="augmented_forms is gone: the teacher remembers"):
        parse_config({"finetune": {"augmented_forms": 12}}, where="old")
    old = {"elastic": {"epochs": 0, "cuts": 64}, "search": {"start_from": None}, "adaptive": {"start_from": None}}
    assert parse_config(old, where="old") == RunConfig()
    for section, message in (
        ({"elastic": {"epochs": 4}}, "elastic is gone"),
        ({"search": {"start_from": "runs/a"}}, "start_from is called trials_from"),
        ({"adaptive": {"start_from": "runs/a"}}, "start_from is called levels_from"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(section, where="old")


def test_fewer_epochs_get_as_large_a_share_of_the_time() -> None:
    whole = FinetuneConfig(epochs=12, max_minutes=6.0)
    assert whole.for_epochs(3).model_dump() == whole.model_dump() | {"epochs": 3, "max_minutes": 1.5}
    assert FinetuneConfig(epochs=12).for_epochs(3).max_minutes is None
