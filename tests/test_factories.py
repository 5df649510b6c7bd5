"""The user's own code is found by file or module, and its faults are told with the field that named it."""

import errno
import sys
from pathlib import Path

import pytest
import torch

from autoprune.errors import InputError, ModelError, RunError, UserCodeError
from autoprune.foundation import factories
from autoprune.foundation.factories import load_factory, source_of, users_errors
from autoprune.models import ModelSpec, build_model


@pytest.fixture(autouse=True)
def no_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test may have named a file of this very folder: then all in it is a user's."""
    monkeypatch.setattr(factories, "_files", {})


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
        ("open('not there')", "cannot import .*FileNotFoundError: .*'not there'"),
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


def test_a_file_is_executed_once_and_again_when_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("made = 1\ndef make():\n    return made\n")
    first = load_factory(f"{path}:make", field="task")
    assert load_factory(f"{path}:make", field="search.agent") is first
    path.write_text("made = 2\ndef make():\n    return made\n")  # of the same length, within the same second
    assert load_factory(f"{path}:make", field="task")() == 2
    assert first() == 1
    assert source_of(f"{path}:make") == path.read_bytes()
    assert source_of("classification") == source_of("imagefolder:some/folder") == b""


RAISING = """
from autoprune.errors import InputError, cut
from json import loads as json_of
from beside_mine import helped

def bare(): raise KeyError("gone")

def library(): return json_of("{")

def helped_by(): return helped

def leaves(): raise SystemExit(0)

def told(): raise InputError("broken.onnx: no model")

def ours(): return cut(None, 1)
"""


def caught(call: object) -> BaseException:
    with pytest.raises((Exception, SystemExit)) as found, users_errors():
        call()  # type: ignore[operator]
    return found.value


def test_what_a_user_s_code_raises_is_told_with_its_key_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(RAISING)
    (tmp_path / "beside_mine.py").write_text("def helped():\n    return {}[1]\n")

    def made(name: str) -> object:
        return load_factory(f"{path}:{name}", field="search.agent")

    found = caught(made("bare"))
    assert isinstance(found, UserCodeError)
    assert str(found) == f"search.agent={path}:bare: {path}, line 6: raised KeyError: 'gone'"
    assert isinstance(found.__cause__, KeyError)
    assert f"search.agent={path}:library: {path}, line 8: raised JSONDecodeError" in str(caught(made("library")))
    helped = made("helped_by")()  # type: ignore[operator]
    assert f"{tmp_path / 'beside_mine.py'}, line 2: raised KeyError: 1" in str(caught(helped))
    assert f"{path}, line 12: raised SystemExit: 0" in str(caught(made("leaves")))
    assert str(caught(made("told"))) == "broken.onnx: no model"
    ours = caught(made("ours"))
    assert isinstance(ours, TypeError)  # raised by a function of ours
    assert ours.__notes__ == [f"It came through {path}, line 16, of search.agent={path}:ours"]
    assert isinstance(caught(lambda: 1 / 0), ZeroDivisionError)
    assert str(caught(lambda: sys.exit(3))) == "3"


@pytest.mark.parametrize(("kind", "exit_code"), [(ModelError, 2), (RunError, 1), (KeyError, None)])
def test_what_was_caught_and_told_otherwise_names_the_line_too(
    kind: type[Exception], exit_code: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def bare():\n    1 / 0\n")
    bare = load_factory(f"{path}:bare", field="search.agent")

    def wrapped() -> None:
        try:
            bare()
        except ZeroDivisionError:
            raise kind("it fails") from None

    found = caught(wrapped)
    if exit_code is None:
        assert type(found) is KeyError  # a mistake of ours
        return
    assert str(found) == f"it fails (raised in {path}, line 2, of search.agent={path}:bare)"
    assert type(found) is (ModelError if kind is ModelError else UserCodeError)
    assert found.exit_code == 2  # type: ignore[attr-defined]


NET = """
from torch import nn
from sub.blocks import Block

def make(num_classes):
    return Block(num_classes)

def failing():
    raise RuntimeError("no network today")
"""
BLOCKS = """
from torch import nn

class Block(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(4 if num_classes else 1 / num_classes, num_classes)

    def forward(self, x):
        return super().forward(x)
"""


def test_a_network_is_the_user_s_until_it_is_cut(tmp_path: Path) -> None:
    """What is raised in its code later may come of a wrong cut of ours: it keeps its traceback."""
    net, blocks = tmp_path / "net.py", tmp_path / "sub" / "blocks.py"
    net.write_text(NET)
    blocks.parent.mkdir()
    blocks.write_text(BLOCKS)
    failing = caught(lambda: build_model(ModelSpec(f"{net}:failing", 2, 3)))
    assert isinstance(failing, ModelError)
    assert f"(raised in {net}, line 9, of model.name={net}:failing)" in str(failing)
    beside = caught(lambda: build_model(ModelSpec(f"{net}:make", 0, 3)))
    assert f"(raised in {blocks}, line 6, of model.name={net}:make)" in str(beside)
    made = build_model(ModelSpec(f"{net}:make", 2, 3))
    made.weight = torch.nn.Parameter(torch.zeros(2, 5))  # type: ignore[assignment]
    found = caught(lambda: made(torch.zeros(1, 4)))
    assert type(found) is RuntimeError
    (note,) = found.__notes__
    assert note.startswith(f"It came through {blocks}, line 9, of model.name={net}:")

    def exported() -> None:
        try:
            made(torch.zeros(1, 4))
        except RuntimeError:
            raise RunError("cut.onnx: cannot be exported") from None

    told = caught(exported)
    assert type(told) is RunError  # with its own exit code
    assert str(told).startswith(f"cut.onnx: cannot be exported (raised in {blocks}, line 9, of model.name={net}:")


def test_the_key_is_that_of_the_file_which_called(tmp_path: Path) -> None:
    """Two files of one folder take from the same neighbour, which raises."""
    (tmp_path / "shared_helper.py").write_text("def help():\n    return {}[1]\n")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("from shared_helper import help\ndef make():\n    return help()\n")
    makes = [load_factory(f"{tmp_path / name}.py:make", field=f"field.{name}") for name in ("one", "two")]
    for name, make in zip(("one", "two"), makes, strict=True):
        line = f"field.{name}={tmp_path / name}.py:make: {tmp_path / 'shared_helper.py'}, line 2: raised KeyError: 1"
        assert str(caught(make)) == line


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        ("MemoryError()", MemoryError),
        ("OSError(28, 'No space left on device', 'file')", OSError),
        ("RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried to allocate 4 bytes')", RuntimeError),
    ],
)
def test_a_full_machine_is_nobody_s_mistake(raised: str, kind: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def make():\n    raise {raised}\n")
    assert errno.ENOSPC == 28
    assert type(caught(load_factory(f"{path}:make", field="search.agent"))) is kind
    assert type(caught(lambda: build_model(ModelSpec(f"{path}:make", 2, 3)))) is kind


def test_what_is_installed_is_not_the_user_s_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package_for_tests.py").write_text("def make():\n    1 / 0\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "a_library_for_tests.py").write_text("def make():\n    1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert type(caught(load_factory("a_package_for_tests:make", field="search.agent"))) is ZeroDivisionError
    (tmp_path / "mine.py").write_text("import a_library_for_tests\ndef make():\n    a_library_for_tests.make()\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert f"{tmp_path / 'mine.py'}, line 3: raised" in str(
        caught(load_factory(f"{tmp_path / 'mine.py'}:make", field="search.agent"))
    )
