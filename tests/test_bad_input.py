"""Every key of the configuration and every option of the command line, given what they cannot be: each time exit code
2, one message, no traceback, and nothing written. The cases are made from the schema and from the options themselves.

All run in this process, through the entry point that the command `autoprune` calls.
"""

import math
import os
import sqlite3
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from small_job import CONFIG, HERE

from autoprune.cli.main import app, main
from autoprune.config import RunConfig
from autoprune.config.file import dump_config, parse_config
from autoprune.errors import LONGEST_MESSAGE, ConfigError

HUGE = 10**30
LONG = "x" * 5000
NOT_A_NUMBER: tuple[Any, ...] = ("many", "", [], [1, 2], {"a": 1}, True, math.nan, math.inf, -math.inf, "1e400", -1)
NOT_A_PATH = ("", " ", "a\0b", LONG, "a/" * 3000, "~no-such-user/x")
NO_FOLDER = (*NOT_A_PATH, "/dev/null", "/dev/null/x", "/proc/x", "file.txt", "file.txt/x", "loop", "loop/x", "link")
NO_NEW_FILE = (*NOT_A_PATH, "/dev/null", "/dev/null/x", "/proc/x", "folder", "file.txt/x", "loop/x", "n" * 240)
# What may be absent, and 0 where it may be 0, is no mistake.
OPTIONAL = type(None)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every value that a configuration holds; the first target stands for all."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        key = f"{prefix}{name}"
        if (
            get_origin(kind) is tuple
            and isinstance(get_args(kind)[0], type)
            and issubclass(get_args(kind)[0], BaseModel)
        ):
            kind, key = get_args(kind)[0], f"{key}.0"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{key}.")
        else:
            yield key, kind


KEYS = dict(leaves(RunConfig))


def mistakes(key: str, kind: Any) -> list[Any]:
    """Values that `key` cannot have."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    wrong: list[Any] = [] if OPTIONAL in kinds else [None]
    [real] = [part for part in kinds if part is not OPTIONAL]
    if real is int:
        wrong += [*NOT_A_NUMBER, 1.5, HUGE, f"0x{'f' * 5000}", 1e300, 1e-320]
    elif real is float:
        wrong += [*NOT_A_NUMBER, HUGE, 1e300, 1e-320]
    elif real is bool:
        wrong += ["maybe", 5, [], {}, math.nan, HUGE]
    elif real is str:
        wrong += [5, 1.5, True, [], {}, *NOT_A_PATH]
    elif get_origin(real) is Literal:
        wrong += ["nope", "", 5, True, [], {}, LONG]
    elif real == tuple[str, ...]:
        wrong += ["many", 5, True, {}, [5], [True], [[]], ["nope"], [f"{LONG}.py:x"]]
    elif real == tuple[dict[str, Any], ...]:
        wrong += ["many", 5, True, {}, [5], ["nope"], [[]]]
    else:  # adaptive.max_ratios
        wrong += [
            "many",
            5,
            [],
            [0.5],
            [0.5, math.nan],
            [0.5, 0.2],
            [1e-320, 1.0],
            [0.2, 1e300],
            [0.1] * 9,
            [True, 1.0],
        ]
    return wrong


CASES = [(key, value) for key, kind in KEYS.items() for value in mistakes(key, kind)]
SECTIONS = sorted({key.rpartition(".")[0] for key in KEYS} - {"", "target.0"})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad") / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"target": [CONFIG["target"]]}), encoding="utf-8")
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file, a folder, a link that leads nowhere and one that leads to itself."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("file.txt").write_text("mine")
    Path("folder").mkdir()
    Path("folder/mine.txt").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("link").symlink_to("nowhere")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in `folder`, to be compared."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_file = path.is_file() and not path.is_symlink()
        found[str(path)] = (path.lstat().st_mode, path.read_bytes() if is_file else b"")
    return found


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str, ours: bool = True) -> str:
    """What a command that must be refused says: one line if it is `ours`, else the parser's box."""
    before = contents(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2, (arguments, ended.value.code, err)
    assert out == ""
    assert "Traceback" not in err
    assert len(err) < 2 * LONGEST_MESSAGE
    lines = err.splitlines()
    if not lines or not lines[0].startswith("Usage:"):
        assert ours, err
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
    assert contents(folder) == before
    return err


def override(key: str, value: Any) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix('...' + chr(10)).strip()}"


def test_there_are_many_cases() -> None:
    assert len(KEYS) >= 80
    assert len(CASES) >= 800


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_what_it_cannot_be(
    key: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in mistakes(key, KEYS[key]):
        said = refused(capsys, place, "run", str(config), "-o", override(key, value), "--run-dir", "run")
        assert key in said, (value, said)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_refuses_what_is_none(
    section: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("text", 5, [], [1], True, math.nan, {"no_such_key": 1}, {1: 2}, {LONG: 1}, {"": 1}):
        said = refused(capsys, place, "run", str(config), "-o", override(section, value), "--run-dir", "run")
        assert section in said, (value, said)


def test_every_number_has_a_range() -> None:
    """So that none can overflow, run for ever, or be written and not read back."""
    for key, kind in KEYS.items():
        if {int, float} & {kind, *get_args(kind)}:
            for value in (HUGE, 1e300):
                raw: dict[str, Any] = {}
                node = raw
                *path, last = key.replace("target.0", "target").split(".")
                for part in path:
                    node = node.setdefault(part, {})
                node |= {"metric": "macs", "unit": "count"} if key.startswith("target") else {}
                node[last] = value
                with pytest.raises(ConfigError, match=last):
                    parse_config(raw, where="x")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from([*KEYS, *SECTIONS]), anything), min_size=1, max_size=3))
def test_whatever_is_accepted_can_be_read_back(changes: list[tuple[str, Any]]) -> None:
    raw: dict[str, Any] = {}
    for key, value in changes:
        node: Any = raw
        *path, last = key.replace("target.0", "target").split(".")
        for part in path:
            node = node.setdefault(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[last] = value
    try:
        accepted = parse_config(raw, where="x")
    except ConfigError as error:
        assert len(str(error)) < 2 * LONGEST_MESSAGE
        return
    assert parse_config(yaml.safe_load(dump_config(accepted)), where="dump") == accepted


# ---------------------------------------------------------------- files that are no configuration

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "\n".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
FILES = {
    "bomb": BOMB,
    "bomb in place": "search:\n  agent: " + BOMB.replace("\n", "\n  "),
    "merges": MERGES,
    "itself": "search: &a {reward: *a}",
    "twice": "seed: 1\nseed: 2",
    "twice below": "train: {epochs: 1, batch_size: 3, epochs: 2}",
    "a section twice": "search: {agent: ppo}\ndata: {}\nsearch: {max_evaluations: 3}",
    "merged twice": "train: &a {epochs: 1}\nfinetune: {<<: *a, <<: *a}",
    "long": f"model: {{name: {'x' * 100_000}}}",
    "long key": f"{'x' * 100_000}: 1",
    "large": "# nothing\n" * 100_000,
    "deep": "[" * 5000,
    "sixties": "seed: " + ":".join(["59"] * 3000),
    "digits": "seed: " + "9" * 5000,
    "hexadecimal": "seed: 0x" + "f" * 5000,
    "bytes": "seed: !!binary aGVsbG8=",
    "date": "seed: 2026-01-01",
    "set": "search: !!set {a, b}",
    "two": "seed: 1\n---\nseed: 2",
    "anchor": "seed: *nothing",
    "list": "- seed",
    "text": "seed",
    "tag": "seed: !!python/name:os.system",
    "control": "seed: \x01",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_configuration(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "run.yaml"
    path.write_text(FILES[name], encoding="utf-8")
    assert "run.yaml: " in refused(capsys, place, "run", str(path), "--run-dir", "run")


def test_an_override_is_bounded_as_a_file_is(config: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (
        f"model.name={'x' * 100_000}",
        "train={epochs: 1, epochs: 2}",
        f"{'a.' * 5000}b=1",
        f"target.{'9' * 5000}.metric=1",
        f"{LONG * 20}=1",
        "=" * 100_000,
        f"search={'[' * 3000}",
        "\0=1",
    ):
        assert "error: " in refused(capsys, place, "run", str(config), "-o", text, "--run-dir", "run")


# ---------------------------------------------------------------- names of files and folders


@pytest.mark.parametrize("name", NO_FOLDER)
def test_no_run_can_be_there(name: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "search", "adapt", "compare"):
        said = refused(capsys, place, command, str(config), "--run-dir", name)
        assert "--run-dir" in said


@pytest.mark.parametrize(
    "key", ["model.name", "model.checkpoint", "data.name", "search.trials_from", "adaptive.levels_from"]
)
def test_names_in_a_configuration_that_lead_nowhere(
    key: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("/dev/null", "/dev/null/x", "folder", "file.txt", "loop", "link", ".", "nowhere")
    shapes = {"model.name": ("{}.py:f", "{}:f", ":{}"), "data.name": ("imagefolder:{}", "{}.py:f", "{}:f", ":{}")}
    for name in (*names, "~no-such-user/x", LONG, "a\0b"):
        for shape in ("{}", *shapes.get(key, ())):
            change = override(key, shape.format(name))
            extra = ("-o", "adaptive.enabled=true") if key.startswith("adaptive") else ()
            said = refused(capsys, place, "run", str(config), "-o", change, *extra, "--run-dir", "run", "--quiet")
            assert key in said or name in said, said


@pytest.mark.parametrize("variable", ["AUTOPRUNE_DATA", "AUTOPRUNE_LATENCY_TABLE", "XDG_CACHE_HOME"])
def test_names_in_the_environment(
    variable: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (LONG, "~no-such-user/x", "a/" * 3000):
        monkeypatch.setenv(variable, name)
        assert variable in refused(capsys, place, "run", str(config), "--run-dir", "run")


# ---------------------------------------------------------------- every option of every command

ONNX = "folder/nowhere.onnx"
NET = (f"{HERE}:net", "--input-shape", "1,16,16", "--classes", "3", "--no-latency", "--quiet")
BASES: dict[str, tuple[str, ...]] = {  # `{config}` is a good configuration; refused at the latest for what is missing
    "run": ("run", "{config}", "--run-dir", "run"),
    "adapt": ("adapt", "{config}", "--run-dir", "run"),
    "search": ("search", "{config}", "--run-dir", "run"),
    "apply": ("apply", "{config}", "--run-dir", "run"),
    "train": ("train", "{config}", "--out", "weights.safetensors"),
    "report": ("report",),
    "inspect": ("inspect", *NET),
    "bench": ("bench", ONNX),
    "evaluate": ("evaluate", "{config}", ONNX),
    "compare": ("compare", "{config}", "--run-dir", "run"),
    "front": ("front", "folder"),
    "nni run": ("nni", "run", "{config}", "--run-dir", "run"),
    "nni resume": ("nni", "resume", "run"),
    "nni view": ("nni", "view", "run"),
    "nni stop": ("nni", "stop", "run"),
    "nni list": ("nni", "list", "folder"),
    "nni space": ("nni", "space", "{config}", "--run-dir", "run"),
    "nni serve": ("nni", "serve", "{config}", "--run-dir", "run"),
}
COUNTS = ("-1", "x", "", "1.5", "nan", "1e9", str(HUGE))
SECONDS = ("-1", "0", "x", "", "nan", "inf", "-inf", "1e300", "1e-320")
NAMES = ("", "nope", LONG, "a\0b", "[", "{", "null")
SHAPES = (
    "",
    "x",
    "1",
    "1,2",
    "0,1,1",
    "-1,2,3",
    "1,,1",
    f"1,1,{HUGE}",
    f"1,1,{'9' * 5000}",
    "1.5,2,3",
    "nan,1,1",
    LONG,
)
BAD: dict[str, tuple[str, ...]] = {  # by option; those of folders and files are of all commands that have them
    "--run-dir": NO_FOLDER,
    "--seed": COUNTS,
    "--override": ("", "x", "=", "seed", "seed=", "seed=x", LONG, "a\0b", f"seed={HUGE}"),
    "--agent": ("", "nope", LONG, "a\0b", "file.txt", "/dev/null/x"),
    "--policy": (*NOT_A_PATH, "nowhere", "folder", "file.txt", "/dev/null", "/dev/null/x"),
    "--model": NAMES,
    "--executor": ("", "nope", LONG, "a\0b"),
    "--address": ("", "nope", LONG, "a\0b"),  # of a cluster, without --executor ray
    "--checkpoint": (*NOT_A_PATH, "nowhere", "folder", "file.txt", "/dev/null", "/dev/null/x"),
    "--checkpoint-key": ("no such key", "x" * 5000, "state_dict"),
    "--out": NO_NEW_FILE,
    "--json": NO_NEW_FILE,
    "--html": NO_NEW_FILE,
    "--save": NO_NEW_FILE,
    "--plot": NO_NEW_FILE,
    "--table": NO_NEW_FILE,
    "--against": (*NOT_A_PATH, "nowhere", "folder", "file.txt", "/dev/null", "/dev/null/x"),
    "--input-shape": SHAPES,
    "--shape": SHAPES,
    "--classes": (*COUNTS, "0", "1"),
    "--width": ("0", "-1", "x", "", "nan", "inf", "1e300", "9"),
    "--threads": (*COUNTS, "0", "1000"),
    "--batch": (*COUNTS, "0", "100000"),
    "--staircase": NAMES,
    "--validate-latency": (*COUNTS, "0", "1"),
    "--backend": NAMES,
    "--provider": NAMES,
    "--seconds": SECONDS,
    "--split": NAMES,
    "--searchers": (*NAMES, "random,random", ",", "random,"),
    "--seeds": (*COUNTS, "0"),
    "--finetune-epochs": COUNTS,
    "--tuner": NAMES,
    "--port": (*COUNTS, "0", "80", "65536"),
    "--host": (*NAMES, "localhost", "192.0.2.1", "::"),
    "--idle-minutes": SECONDS,
}
SWITCHES = {
    "--help",
    "--version",
    "--quiet",
    "--resume",
    "--quick",
    "--sweep",
    "--roofline",
    "--energy",
    "--no-latency",
    "--search-only",
}
APP: Any = typer.main.get_command(app)
NNI = APP.commands.pop("nni").commands
# `nni trial` has a process made by `nni serve`, with the same options; `nni loopback` has none.
COMMANDS: Any = APP.commands | {f"nni {name}": NNI[name] for name in NNI if name not in ("trial", "loopback")}
OPTIONS = [
    (command, max(parameter.opts, key=len))
    for command, found in COMMANDS.items()
    for parameter in found.params
    if parameter.param_type_name == "option" and not parameter.is_flag
]


def test_every_option_is_tried() -> None:
    assert set(BASES) == set(COMMANDS)
    assert {option for _, option in OPTIONS} == set(BAD)
    switches = {
        name
        for found in COMMANDS.values()
        for parameter in found.params
        if parameter.param_type_name == "option" and parameter.is_flag
        for name in parameter.opts
        if name.startswith("--")
    }
    assert switches - {"--json"} <= SWITCHES  # of inspect and front it is a switch


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_every_option_refuses_what_it_cannot_be(
    command: str, option: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [part.format(config=config) for part in BASES[command]]
    if option in base:
        start = base.index(option)
        del base[start : start + 2]
    if option in ("--staircase", "--validate-latency", "--table"):
        base.remove("--no-latency")
    if command == "inspect" and option == "--plot":
        base += ["--staircase", "3"]
        base.remove("--no-latency")
    for value in BAD[option]:
        if (command, option) == ("front", "--save") and value in ("folder", "n" * 240):
            continue  # that is a folder to write into
        refused(capsys, place, *base, f"{option}={value}")


@pytest.mark.parametrize("command", BASES)
def test_every_argument_refuses_what_it_cannot_be(
    command: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    rest = [part.format(config=config) for part in BASES[command][len(words) + 1 :]]
    for value in (*NOT_A_PATH, "nowhere", "folder", "file.txt", "/dev/null", "/dev/null/x", "loop", "link"):
        if (command, value) != ("nni list", "folder"):  # there is no run in it
            refused(capsys, place, *words, value, *rest)


# ---------------------------------------------------------------- folders that hold something else


def a_config_that_is_a_folder(run: Path) -> None:
    (run / "config.yaml").mkdir()


def a_broken_config(run: Path) -> None:
    (run / "config.yaml").write_text("seed: [")


def an_empty_config(run: Path) -> None:
    (run / "config.yaml").write_text("")


def a_config_of_another_version(run: Path) -> None:
    (run / "config.yaml").write_text("schema: 9")


def no_database(run: Path) -> None:
    (run / "config.yaml").write_text(dump_config(parse_config(CONFIG, where="x")))
    (run / "trials.sqlite").write_bytes(b"no database" * 100)


def another_database(run: Path) -> None:
    (run / "config.yaml").write_text(dump_config(parse_config(CONFIG, where="x")))
    with closing(sqlite3.connect(run / "trials.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")


def an_empty_result(run: Path) -> None:
    (run / "config.yaml").write_text(dump_config(parse_config(CONFIG, where="x")))
    (run / "result.json").write_text("")
    (run / "report.html").write_text("")


def a_strangers_file(run: Path) -> None:
    (run / "notes.txt").write_text("mine")


def a_hidden_file(run: Path) -> None:
    (run / ".notes.txt").write_text("mine")


def a_level_that_is_no_level(run: Path) -> None:
    (run / "levels").mkdir()
    (run / "levels" / "0").write_text("")


@pytest.mark.parametrize(
    "spoil",
    [
        a_config_that_is_a_folder,
        a_broken_config,
        an_empty_config,
        a_config_of_another_version,
        no_database,
        another_database,
        an_empty_result,
        a_strangers_file,
        a_hidden_file,
        a_level_that_is_no_level,
    ],
)
@pytest.mark.parametrize("resume", [(), ("--resume",)], ids=["anew", "resumed"])
def test_folders_that_hold_something_else(
    spoil: Any, resume: tuple[str, ...], config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "place" / "run"
    run.mkdir()
    spoil(run)
    (run / ".lock").touch()  # it is taken before a database is opened
    refused(capsys, place, "run", str(config), "--run-dir", "run", *resume, "--quiet")


def test_the_processor_bounds_the_threads(config: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    for threads in (cores + 1, 64, 1000):
        if threads > cores:
            said = refused(capsys, place, "run", str(config), "-o", f"measure.threads={threads}", "--run-dir", "run")
            assert f"measure.threads: {threads} threads, but there are {cores} cores here" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.search_images=1", "data.search_images: 1 images are fewer than the 3 classes"),
        ("data.search_images=2", "data.search_images: 2 images are fewer than the 3 classes"),
        ("data.max_train_images=2", "data.max_train_images: 2 images are fewer than the 3 classes"),
        ("data.search_images=600", "data.search_images=600 leaves nothing of the 600 training images"),
        ("measure.batch_size=241", "measure.batch_size=241: the test split has 240 images; lower it"),
    ],
)
def test_the_data_bound_what_is_taken_of_them(
    change: str, message: str, config: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, place, "run", str(config), "-o", change, "--run-dir", "run", "--quiet")
