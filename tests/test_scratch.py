"""Temporary files and folders of killed processes are removed; those of living ones, and other people's, are not."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoprune.foundation.files import atomic_path, write_json, write_text
from autoprune.foundation.scratch import (
    is_temporary,
    is_temporary_of,
    remove_orphans,
    scratch_folder,
    scratch_for_all,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@contextmanager
def holding(code: str, *arguments: str | Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs `code` up to its `hold()`, and is killed when the block ends."""
    script = f"import sys, signal\ndef hold():\n    print('there', flush=True)\n    signal.pause()\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


WRITES = """
from pathlib import Path
from autoprune.foundation.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text('half')
    hold()
"""
WORKS = """
from autoprune.foundation.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / 'big.onnx').write_text('x')
    (folder / 'sub').mkdir()
    (folder / 'sub' / 'more').write_text('x')
    hold()
"""


def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "figures [1].json"
    (tmp_path / ".figures [1].json.notes.json").write_text("a stranger's")
    (tmp_path / ".figures 1.json.autoprune-ab12cd34.json").write_text("another file's")
    others = names(tmp_path)
    with holding(WRITES, path):
        assert len(names(tmp_path)) == 3
        write_json(path, [1])  # the writer lives: its file stays
        assert len(names(tmp_path)) == 4
    assert len(names(tmp_path)) == 4
    write_json(path, [2])
    assert names(tmp_path) == sorted([*others, path.name])
    assert path.read_text() == "[\n  2\n]\n"


def test_orphans_in_a_folder_of_ours(tmp_path: Path) -> None:
    kept = [".lock", "policy.json", ".policy.json.json", ".notes", ".a.json.autoprune-ab12cd34.txt", ".x.short.x"]
    gone = [".policy.json.ab12cd_4.json", ".policy.json.autoprune-ab12cd_4.json", ".config.yaml.abcdefgh.yaml"]
    (tmp_path / "agent").mkdir()
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    (tmp_path / "agent" / ".agent.onnx.12345678.onnx").touch()
    (tmp_path / ".folder.json.12345678.json").mkdir()
    with holding(WRITES, tmp_path / "agent" / "alive.json"):
        remove_orphans(tmp_path)
        assert names(tmp_path) == sorted([*kept, "agent", ".folder.json.12345678.json"])
        [alive] = names(tmp_path / "agent")
        assert alive.startswith(".alive.json.autoprune-")
    remove_orphans(tmp_path)
    assert names(tmp_path / "agent") == []


def test_names_of_temporary_files(tmp_path: Path) -> None:
    for name in ("policy.json", "net.state.pt", "weights", "a b [c].é.yaml", "archive.tar.gz"):
        with atomic_path(tmp_path / name) as made:
            assert is_temporary(made.name)
            assert is_temporary_of(made.name, name)
            assert not is_temporary_of(made.name, f"x{name}")
            assert made.name.endswith(Path(name).suffix)
    assert not is_temporary("policy.json")
    assert not is_temporary(".policy.json")


def test_a_scratch_folder_goes_when_its_block_ends(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        (folder / "x").touch()
        with scratch_folder() as another:
            assert another != folder
            assert folder.is_dir()
    assert names(temporary) == []
    with pytest.raises(ZeroDivisionError), scratch_folder():
        raise ZeroDivisionError
    assert names(temporary) == []


def test_scratch_folders_of_the_killed_go_and_others_stay(temporary: Path) -> None:
    strangers = temporary / "autoprune-ab12cd34"  # without a lock: nobody knows whose it is
    (strangers / "x").mkdir(parents=True)
    named = temporary / "autoprune-results"
    named.mkdir()
    (temporary / "autoprune-results.lock").touch()
    (temporary / "autoprune-12345678").symlink_to(strangers)
    (temporary / "autoprune-12345678.lock").touch()
    kept = names(temporary)
    with holding(WORKS, TMPDIR=str(temporary)):
        before = names(temporary)
        assert len(before) == len(kept) + 2
        with scratch_folder():
            pass
        assert names(temporary) == before
    assert names(temporary) == before
    with scratch_folder() as folder:
        assert names(temporary) == sorted([*kept, folder.name, f"{folder.name}.lock"])
    assert names(temporary) == kept
    (temporary / "autoprune-lockonly.lock").touch()  # killed before the folder was made
    with scratch_folder():
        pass
    assert names(temporary) == kept
    assert (strangers / "x").is_dir()


def test_a_process_of_our_own_keeps_all_its_temporary_files_there(temporary: Path) -> None:
    with scratch_for_all() as folder:
        with tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).parent == folder
        (Path(tempfile.mkdtemp()) / "left").touch()
    assert tempfile.gettempdir() == str(temporary)
    assert names(temporary) == []


def test_a_file_that_cannot_be_removed_is_left(tmp_path: Path) -> None:
    (tmp_path / ".x.json.12345678.json").symlink_to("nowhere")
    remove_orphans(tmp_path)
    write_text(tmp_path / "x.json", "{}")
    assert names(tmp_path) == [".x.json.12345678.json", "x.json"]
