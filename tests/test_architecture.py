"""Imports point one way, searches cannot see the test split, and nothing unpickles: read from the source with `ast`.

Each check is a pure function from a module's name and source to the list of its violations, and has a companion test
that plants violations and must find them.
"""

import ast
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
FOLDERS = {"autoprune": "autoprune", "envs": "autoprune.envs", "policies": "autoprune.policies"}

# A module may import from lower levels, and from its own level what stands to its left.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "foundation", "config", "compute", "space", "store"),
    ("tasks", "models", "data"),
    ("tracing", "pruning"),
    ("runtimes", "measure", "export", "bench", "roofline"),
    ("training",),
    ("prediction", "search", "studies"),
    ("envs",),
    ("policies",),
    ("results", "reports", "inspection", "steps", "adaptive", "nni", "jobs", "api", "testing", "cli"),
)
RANK = {part: (level, place) for level, parts in enumerate(LEVELS) for place, part in enumerate(parts)}
TOP_LEVEL = len(LEVELS) - 1

# What leads to the test split; the readers of single data sets are private to the package `data`.
TEST_SPLIT = "load_test_split"
DATA_READERS = ("autoprune.data.fashion_mnist", "autoprune.data.imagefolder", "autoprune.data.custom")

OF_CLASSIFIERS, OF_DEVICES = ("softmax", "argmax", "cross_entropy"), ("autocast",)

SAFE_LOADERS = {"json.load", "json.loads", "onnx.load", "tomllib.load", "tomllib.loads", "yaml.safe_load"}
# Reads pickle only if this argument says so, or unless it does.
LOADERS_WITH_A_SWITCH = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
UNPICKLERS = {"load", "loads", "Unpickler", "load_replay_buffer", "read_pickle"}
PICKLE_LIBRARIES = {"cloudpickle", "dill", "joblib", "shelve"}


def module_name(path: Path) -> str:
    """The dotted name under which a file of the checkout is imported."""
    folder, *rest = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *rest]).removesuffix(".__init__")


PATHS = {module_name(path): path for folder in FOLDERS for path in sorted((CHECKOUT / folder).rglob("*.py"))}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}
PACKAGES = {name for name, path in PATHS.items() if path.name == "__init__.py"}


def imports(name: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported at any depth; `from a import b` gives `a.b`."""
    package = name if name in PACKAGES else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) == "import_module" and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield node.lineno, target.value


def part_of(dotted: str) -> str | None:
    """`autoprune.data.splits.X` belongs to the part `data`; what is not ours to None."""
    root, *rest = dotted.split(".")
    return rest[0] if root == "autoprune" and rest else None


def direction_violations(name: str, source: str) -> list[str]:
    part = part_of(name)
    if part is not None and part not in RANK:
        return [f"{name}: add {part!r} to LEVELS in tests/test_architecture.py, at the lowest level that it can have"]
    found = []
    for line, target in imports(name, source):
        if target.split(".")[0] in ("envs", "policies"):
            found.append(f"{name}:{line}: import autoprune.{target}, not {target}")
        imported = part_of(target)
        if imported is None or imported == part or imported == "__version__" or part is None:
            continue
        if imported not in RANK:
            found.append(f"{name}:{line}: autoprune has no part {imported!r} (add a new one to LEVELS)")
        elif RANK[imported] > RANK[part]:
            found.append(f"{name}:{line}: {part} (level {RANK[part][0]}) imports {imported} ({RANK[imported][0]})")
    return found


def circles(sources: Mapping[str, str]) -> list[str]:
    """The modules that lie on a circle of imports, or above one."""
    wanted = {
        name: {_module_of(target, sources) for _, target in imports(name, source)} - {None, name}
        for name, source in sources.items()
    }
    done: set[str] = set()
    while free := [name for name in wanted if name not in done and wanted[name] <= done]:
        done |= set(free)
    return sorted(wanted.keys() - done)


def _module_of(dotted: str, modules: Iterable[str]) -> str | None:
    """The longest beginning of a dotted name that is a module with code of its own."""
    while dotted and dotted not in modules:
        dotted = dotted.rpartition(".")[0]
    return dotted or None


def split_violations(name: str, source: str) -> list[str]:
    part = part_of(name)
    if part == "data" or part is None or RANK.get(part, (TOP_LEVEL, 0))[0] == TOP_LEVEL:
        return []
    found = [
        f"{name}:{line}: {target} reads the test split too; use autoprune.data.load_search_data"
        for line, target in imports(name, source)
        if target.startswith(DATA_READERS)
    ]
    for node in ast.walk(ast.parse(source)):
        named = node.value if isinstance(node, ast.Constant) else node.name if isinstance(node, ast.alias) else None
        if named == TEST_SPLIT or _last_name(node) == TEST_SPLIT:
            found.append(f"{name}:{getattr(node, 'lineno', 0)}: {TEST_SPLIT} is for level {TOP_LEVEL} only")
    return found


def pickle_violations(name: str, source: str) -> list[str]:
    tree = ast.parse(source)
    meanings = _meanings(name, tree)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [
        f"{name}:{line}: {target} unpickles code"
        for line, target in imports(name, source)
        if target.split(".")[0] in PICKLE_LIBRARIES
    ]
    for node in ast.walk(tree):
        dotted = _dotted(node, meanings)
        if dotted is None or dotted.rpartition(".")[2] not in UNPICKLERS:
            continue
        root = dotted.split(".")[0]
        if dotted in SAFE_LOADERS or root in ("autoprune", "self", "cls"):
            continue
        if dotted in LOADERS_WITH_A_SWITCH and id(node) in calls:
            argument, wanted = LOADERS_WITH_A_SWITCH[dotted]
            given = {keyword.arg: keyword.value for keyword in calls[id(node)].keywords}.get(argument)
            is_wanted = isinstance(given, ast.Constant) and given.value is wanted
            if is_wanted or (given is None and dotted == "numpy.load"):
                continue
        found.append(f"{name}:{getattr(node, 'lineno', 0)}: {dotted} may run code from the file")
    return found


def judging_violations(name: str, source: str) -> list[str]:
    """How numbers are computed is for `compute` to say, and what outputs mean for a task; only input-adaptive models
    and agents have outputs of their own kind, and `tracing` the names of operators."""
    part = part_of(name)
    words = () if part in ("tasks", "adaptive", "policies", "tracing") else OF_CLASSIFIERS
    words += () if part == "compute" else OF_DEVICES
    return [f"{name}: {word} is for autoprune.tasks or autoprune.compute" for word in words if word in source]


def _meanings(name: str, tree: ast.Module) -> dict[str, str]:
    """What the names of a module stand for: `np` for `numpy`, its own classes for `autoprune.….Class`."""
    meanings = {
        node.name: f"{name}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                shown = alias.asname or alias.name.split(".")[0]
                meanings[shown] = alias.name if alias.asname else shown
        elif isinstance(node, ast.ImportFrom):
            meanings |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return meanings


def _dotted(node: ast.AST, meanings: dict[str, str]) -> str | None:
    """`np.load` as `numpy.load`; a loader of a value that no name tells (`AGENTS[name].load`) as `?.load`."""
    if isinstance(node, ast.Name):
        return meanings.get(node.id, node.id) if isinstance(node.ctx, ast.Load) else None
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, meanings) or '?'}.{node.attr}"
    return None


def _last_name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("check", [direction_violations, split_violations, pickle_violations, judging_violations])
@pytest.mark.parametrize("name", SOURCES)
def test_module_keeps_the_rules(check, name):
    assert check(name, SOURCES[name]) == []


def test_every_folder_is_read():
    assert {"autoprune", "autoprune.config", "autoprune.data", "autoprune.envs", "autoprune.policies"} <= set(SOURCES)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        (
            "autoprune.search.reward",
            "from autoprune.envs.action import rung_of",
            "search (level 5) imports envs (6)",
        ),
        (
            "autoprune.training.train",
            "def late():\n    import autoprune.cli.main",
            "training (level 4) imports cli (8)",
        ),
        ("autoprune.training.train", "from autoprune import jobs", "training (level 4) imports jobs (8)"),
        (
            "autoprune.data.splits",
            "from ..models import build_model\nfrom ..training import fit",
            "data (level 1) imports training",
        ),
        ("autoprune.data", "from .splits import X\nfrom ..training import fit", "data (level 1) imports training (4)"),
        (
            "autoprune.pruning.groups",
            "importlib.import_module('autoprune.export.onnx_file')",
            "pruning (level 2) imports export (3)",
        ),
        ("autoprune.envs.layerwise", "from autoprune.policies import agents", "envs (level 6) imports policies (7)"),
        ("autoprune.cli.main", "from envs import layerwise", "import autoprune.envs.layerwise, not envs.layerwise"),
        ("autoprune.cli.main", "import policies", "import autoprune.policies, not policies"),
        ("autoprune.brand_new", "", "add 'brand_new' to LEVELS"),
        ("autoprune.cli.main", "from autoprune.brand_new import X", "no part 'brand_new'"),
        ("autoprune.cli.main", "from autoprune import helper", "no part 'helper'"),
    ],
)
def test_direction_check_finds_a_planted_violation(name, source, complaint):
    found = direction_violations(name, source)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("autoprune.search.problem", "from autoprune.search.reward import reward\nfrom autoprune.data.splits import X"),
        ("autoprune.cli.main", "from autoprune import __version__, jobs\nimport torch, gymnasium.envs"),
        ("autoprune.data.custom", "from autoprune.data.splits import ImageSplit\nfrom . import splits"),
        ("autoprune", "from autoprune.compress import compress"),
    ],
)
def test_direction_check_lets_the_right_way_pass(name, source):
    assert direction_violations(name, source) == []


def test_judging_check_finds_a_planted_violation():
    source = "right = model(images).argmax(1) == labels"
    assert judging_violations("autoprune.training.scores", source) != []
    assert judging_violations("autoprune.tasks.classification", source) == []
    assert judging_violations("autoprune.tasks.classification", "with torch.autocast('cpu'): pass") != []
    assert judging_violations("autoprune.compute.compute", "with torch.autocast('cpu'): pass") == []


def test_no_modules_import_each_other_in_a_circle():
    # The package itself hands names on, and has the version that lower modules ask for.
    assert circles({name: source for name, source in SOURCES.items() if name != "autoprune"}) == []


def test_circle_check_finds_a_planted_circle():
    sources = {
        "autoprune.search.a": "from autoprune.search.b import B",
        "autoprune.search.b": "def late():\n    from autoprune.search import a",
        "autoprune.search.c": "import torch\nfrom autoprune.search.d import D",
        "autoprune.search.d": "from . import missing",
    }
    assert circles(sources) == ["autoprune.search.a", "autoprune.search.b"]


@pytest.mark.parametrize(
    "source",
    [
        "from autoprune.data import load_test_split",
        "from autoprune.data import load_test_split as splits",
        "from autoprune import data\ntest = data.load_test_split(config)",
        "getattr(data, 'load_test_split')(config)",
        "from autoprune.data import fashion_mnist\nfashion_mnist.load('test')",
        "from autoprune.data.imagefolder import load",
    ],
)
@pytest.mark.parametrize("name", ["autoprune.search.evaluate", "autoprune.envs.layerwise", "autoprune.policies.agents"])
def test_split_check_finds_a_planted_violation(name, source):
    assert split_violations(name, source) != []
    assert split_violations("autoprune.jobs.run", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch as t\nread = t.load",
        "from torch import load\nload(path)",
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads as decode\ndecode(data)",
        "import pickle\npickle.Unpickler(file).load()",
        "import cloudpickle",
        "from joblib import load",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "from stable_baselines3 import DDPG\nDDPG.load('agent.zip')",
        "AGENTS[name].load('agent.zip')",
        "def f(agent):\n    agent.load_replay_buffer(path)",
        "import yaml\nyaml.load(text, Loader=yaml.UnsafeLoader)",
    ],
)
def test_pickle_check_finds_a_planted_violation(source):
    assert pickle_violations("autoprune.training.train", source) != []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import json, onnx, yaml\njson.loads(text)\nonnx.load(path)\nyaml.safe_load(text)",
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "from autoprune.space.policy import PruningPolicy\nPruningPolicy.load(path)",
        "class Table:\n    @classmethod\n    def load(cls, path): ...\nTable.load(path)",
        "from autoprune.data import fashion_mnist\nfashion_mnist.load('train')",
    ],
)
def test_pickle_check_lets_safe_loading_pass(source):
    assert pickle_violations("autoprune.training.train", source) == []


LONGEST_MODULE, LONGEST_MEDIAN, MOST_MODULES = 350, 150, 14


def house_faults(sources: Mapping[str, str]) -> list[str]:
    """What is too large to be read at a sitting: modules by their lines, folders by their modules."""
    lines = {name: source.count("\n") for name, source in sources.items()}
    folders: dict[str, int] = {}
    for name in sources.keys() - PACKAGES:
        folders[name.rpartition(".")[0]] = folders.get(name.rpartition(".")[0], 0) + 1
    found = [f"{name} has {length} lines" for name, length in sorted(lines.items()) if length > LONGEST_MODULE]
    found += [f"{folder} has {count} modules" for folder, count in sorted(folders.items()) if count > MOST_MODULES]
    if lines and statistics.median(lines.values()) > LONGEST_MEDIAN:
        found.append(f"the median module has {statistics.median(lines.values())} lines")
    return found


def test_the_house_can_be_read():
    assert house_faults(SOURCES) == []


def test_the_house_check_finds_planted_faults():
    sources = {"autoprune.a.long": "x\n" * 351, **{f"autoprune.b.m{number}": "" for number in range(15)}}
    assert house_faults(sources) == ["autoprune.a.long has 351 lines", "autoprune.b has 15 modules"]
    assert house_faults({f"autoprune.c.m{number}": "x\n" * 151 for number in range(3)}) == [
        "the median module has 151 lines"
    ]
