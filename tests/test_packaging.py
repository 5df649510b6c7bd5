"""The sdist and the wheel hold all that is needed and nothing else; an installed wheel runs outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
METADATA = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
SDIST_FILES = {
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md"),
    *("constraints.txt", "mkdocs.yml", "pyproject.toml"),
}
LEFT_OVERS = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
# Folder of the checkout, the kinds of file in it that are installed, and where they go.
INSTALLED = (
    ("autoprune", {".py", ".j2", ".css", ".js", ".json", ".safetensors", ".typed"}, "autoprune"),
    ("envs", {".py"}, "autoprune/envs"),
    ("policies", {".py"}, "autoprune/policies"),
    ("configs", {".yaml"}, "autoprune/configs"),
)
MUST_HAVE = {
    "autoprune/checkpoints/resnet20_fashion_mnist.safetensors",
    "autoprune/cli/main.py",
    "autoprune/configs/demo.yaml",
    "autoprune/configs/fashion_mnist_resnet20.yaml",
    "autoprune/data/fashion_mnist.py",
    "autoprune/envs/__init__.py",
    "autoprune/models/resnet.py",
    "autoprune/policies/__init__.py",
    "autoprune/py.typed",
    "autoprune/reports/report.html.j2",
}
# A whole run in a minute: little data, few and random candidates, one epoch of fine-tuning.
QUICK = (
    "data.max_train_images=2000",
    "data.max_test_images=500",
    "search.max_evaluations=4",
    "search.agent=random",
    "search.score_images=256",
    "search.calibration_images=256",
    "finetune.epochs=1",
    "measure.rounds=6",
)


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that knows nothing of the checkout; the test fails with it if the command does."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory) -> Path:
    """The checkout without what builds and tools leave there, so that stale files cannot slip into a wheel."""
    copy = tmp_path_factory.mktemp("packaging") / "source"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*LEFT_OVERS))
    return copy


@pytest.fixture(scope="module")
def built(clean_copy) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from the sdist alone."""
    dist = clean_copy.parent / "dist"
    run(sys.executable, "-m", "build", "--outdir", dist, clean_copy, cwd=clean_copy.parent)
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def wheel_names(built) -> set[str]:
    with zipfile.ZipFile(built[1]) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_installed_file_and_nothing_else(clean_copy, wheel_names):
    expected = {
        f"{target}/{name}"
        for folder, suffixes, target in INSTALLED
        for name in files_below(clean_copy / folder)
        if Path(name).suffix in suffixes
    }
    assert {name for name in wheel_names if ".dist-info/" not in name} == expected


def test_wheel_holds_what_a_run_needs(wheel_names):
    assert MUST_HAVE - wheel_names == set()


def test_wheel_describes_itself(built, wheel_names):
    with zipfile.ZipFile(built[1]) as archive:
        [metadata] = [name for name in wheel_names if name.endswith(".dist-info/METADATA")]
        [scripts] = [name for name in wheel_names if name.endswith(".dist-info/entry_points.txt")]
        headers = Parser().parsestr(archive.read(metadata).decode())
        entry_point = archive.read(scripts).decode().split()
        assert entry_point == ["[console_scripts]", "autoprune", "=", "autoprune.cli.main:main"]
    assert headers["Name"] == "autoprune"
    assert headers["License-Expression"] == "MIT"
    assert headers["Requires-Python"] == "<3.14,>=3.11"
    assert set(headers.get_all("Provides-Extra", [])) == METADATA["project"]["optional-dependencies"].keys()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_sdist_holds_the_sources_the_tests_and_nothing_else(clean_copy, built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    generated = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    folders = ("benchmarks", "docs", "examples", "scripts", "tests", *(folder for folder, _, _ in INSTALLED))
    expected = {f"{folder}/{name}" for folder in folders for name in files_below(clean_copy / folder)}
    only_in_a_checkout = {name for name in expected if name.startswith("configs/checkpoints/")}  # for benchmarks, large
    assert only_in_a_checkout
    assert names - generated == expected - only_in_a_checkout | SDIST_FILES


def test_constraints_pin_every_requirement():
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    pinned = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    extras = METADATA["project"]["optional-dependencies"].values()
    wanted = {
        requirement.split("<")[0].split(">")[0].split("=")[0].lower()
        for requirements in (METADATA["project"]["dependencies"], *extras)
        for requirement in requirements
    }
    assert wanted - pinned == set()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_installed_wheel_runs_outside_the_checkout(built, tmp_path):
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    run(home / "bin/pip", "install", "-q", "-c", CHECKOUT / "constraints.txt", built[1], cwd=tmp_path)
    module = run(home / "bin/python", "-c", "import autoprune; print(autoprune.__file__)", cwd=tmp_path)
    assert Path(module.strip()).is_relative_to(home)
    assert "run" in run(home / "bin/autoprune", "--help", cwd=tmp_path)

    overrides = [part for override in QUICK for part in ("-o", override)]
    run(home / "bin/autoprune", "run", "demo", *overrides, "--run-dir", tmp_path / "run", cwd=tmp_path)
    result = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert result["schema"] == 1
    assert result["search"]["evaluations"] == 4
    assert result["pruned"]["params"] < result["original"]["params"]
    assert (tmp_path / "run/export/model.onnx").is_file()
    assert "<html" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
