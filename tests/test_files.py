"""Writes are whole or absent, and broken files are named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.errors import InputError
from autoprune.foundation.files import atomic_path, read_json, require_free_space, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json_come_back_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_json(path, {"é": [1, 2.5, None]})
    assert read_json(path) == {"é": [1, 2.5, None]}
    assert names(path.parent) == ["b.json"]
    write_text(path, "naïve")
    assert path.read_bytes() == "naïve".encode()


def test_a_failure_midway_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Whoever has the old file open, as this link has, goes on reading the old file."""
    path, link = tmp_path / "new.txt", tmp_path / "link.txt"
    write_text(path, "old")
    link.hardlink_to(path)
    write_text(path, "new")
    assert (path.read_text(), link.read_text()) == ("new", "old")


def test_values_that_are_no_json_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, [1])
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, {"x": value})
    assert read_json(path) == [1]
    assert names(tmp_path) == ["kept.json"]


def test_a_write_that_the_system_cuts_off_leaves_the_old_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the system refuse the write after 1,000 bytes, as a full disk would."""
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    script = (
        "import resource, sys; from pathlib import Path; from autoprune.foundation.files import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); write_text(Path(sys.argv[1]), 'x' * 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert path.read_text() == "old"
    assert names(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1,}', b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.json: not valid JSON"):
        read_json(path)


def test_missing_json_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_free_space_is_asked_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", needed_bytes=1)
    with pytest.raises(InputError, match=r"not/yet: the disk is nearly full .* choose another --run-dir"):
        require_free_space(tmp_path / "not" / "yet", needed_bytes=2**70)
    assert names(tmp_path) == []


def test_files_written_are_readable_by_others(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "x.json").read_text()) == {}
