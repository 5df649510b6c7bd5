"""The notebook runs from its first cell to its last, as whoever opens it would run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code"), (
        "kept without outputs"
    )
    ended = subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "optimum" in ended.stdout and "ddpg" in ended.stdout
    assert list(tmp_path.iterdir()) == []
