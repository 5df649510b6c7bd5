"""The user's own code is found by file or module, and its faults are told with the field that named it."""

import sys
from pathlib import Path

import pytest

from autoprune.errors import InputError
from autoprune.foundation.factories import load_factory


def test_a_factory_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def make(n):\n    return n + 1\n")
    assert load_factory(f"{path}:make", field="model.name")(2) == 3
    assert "mine" not in sys.modules


def test_a_file_named_like_a_module_does_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text("def make():\n    import json\n    return json.dumps([1])\n")
    assert load_factory(f"{path}:make", field="model.name")() == "[1]"


def test_a_file_may_define_dataclasses_with_postponed_annotations(tmp_path: Path) -> None:
    """`dataclasses` looks the class's module up in `sys.modules`."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Recipe:\n    n: int\n\ndef make():\n    return Recipe(3).n\n"
    )
    assert load_factory(f"{path}:make", field="model.name")() == 3


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def make():\n    return {folder!r}\n")
    made = [load_factory(f"{tmp_path / folder}/mine.py:make", field="x") for folder in ("a", "b")]
    assert [factory() for factory in made] == ["a", "b"]
    assert made[0].__module__ != made[1].__module__


def test_a_factory_from_a_module() -> None:
    assert load_factory("os.path:join", field="data.name")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("make = 3", "has no callable 'make'"),
        ("def other(): ...", "has no callable 'make'"),
        ("def make(:", "cannot import .*SyntaxError"),
        ("import not_installed_anywhere", "cannot import .*No module named 'not_installed_anywhere'"),
        ("1 / 0", "cannot import .*ZeroDivisionError: division by zero"),
    ],
)
def test_faults_in_the_file_are_told(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(InputError, match=f"model.name=.*mine.py:make: .*{part}"):
        load_factory(f"{path}:make", field="model.name")


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nonsense", "expected path/file.py:factory or package.module:factory"),
        (":make", "expected path/file.py:factory"),
        ("mine.py:", "expected path/file.py:factory"),
        ("no/such/file.py:make", "no such file"),
        ("no_such_package.module:make", "No module named 'no_such_package'"),
        (".relative:make", "cannot import"),
    ],
)
def test_names_that_lead_nowhere_are_told(spec: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        load_factory(spec, field="data.name")
    assert str(caught.value).startswith(f"data.name={spec}: ")
    assert part in str(caught.value)
