"""The scripts behind `make`: they do nothing twice, and say what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ARCHIVES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def run(*command: str | Path, cwd: Path = CHECKOUT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout without a virtual environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path)
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "scripts")
    return tmp_path


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_install_refuses_what_is_no_supported_python(checkout, python):
    done = run("make", "install", f"PYTHON={python}", cwd=checkout)
    assert done.returncode == 2
    assert f"autoprune: PYTHON={python} is not a Python 3.11, 3.12 or 3.13." in done.stderr
    assert not (checkout / ".venv").exists()


def test_install_without_any_python_says_what_to_do(checkout):
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = run(tools / "bash", "scripts/install.sh", cwd=checkout, PATH=str(tools), PYTHON="")
    assert done.returncode == 1
    assert done.stderr.startswith("autoprune: no Python 3.11, 3.12 or 3.13 found.\nautoprune: Install one")


def test_environment_of_another_checkout_is_not_healthy(checkout):
    assert run(sys.executable, "-I", checkout / "scripts/check_venv.py").stdout == ""


def test_make_plans_the_install_for_a_checkout_without_environment(checkout):
    assert "scripts/install.sh" in run("make", "-n", "demo", cwd=checkout).stdout


def test_make_demo_goes_on_from_a_run_that_stands(checkout):
    first = run("make", "-n", "demo", cwd=checkout).stdout
    (checkout / "runs/demo").mkdir(parents=True)
    second = run("make", "-n", "demo", cwd=checkout).stdout
    assert ".venv/bin/autoprune run demo --run-dir runs/demo" in first
    assert "--resume" not in first
    assert ".venv/bin/autoprune run demo --run-dir runs/demo --resume" in second


@pytest.mark.parametrize("place", ["AUTOPRUNE_DATA", "XDG_CACHE_HOME"])
def test_data_that_is_there_is_not_fetched(tmp_path, place):
    folder = tmp_path if place == "AUTOPRUNE_DATA" else tmp_path / "autoprune/fashion-mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES:
        (folder / archive).touch()
    done = run(CHECKOUT / "scripts/get_fashion_mnist.sh", **{place: str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_data_that_cannot_be_had_is_left_to_the_library(tmp_path):
    """Neither the package, as on a machine that is not Debian, nor a failure of the script."""
    script = (CHECKOUT / "scripts/get_fashion_mnist.sh").read_text(encoding="utf-8")
    absent = tmp_path / "get.sh"
    absent.write_text(script.replace("/usr/share/datasets", str(tmp_path / "nowhere")), encoding="utf-8")
    done = run(shutil.which("bash") or "bash", absent, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0
    assert "getting Fashion-MNIST" in done.stdout
    assert "will try the public download" in done.stderr
