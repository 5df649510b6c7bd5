"""A pruning policy keeps channels of each group, none where a branch is gone, and comes back from its file."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import InputError
from autoprune.space.policy import PruningPolicy, load_policy, load_stored_policy, save_policy


@given(st.dictionaries(st.text(max_size=12), st.integers(0, 4096), max_size=8))
def test_a_policy_comes_back_from_its_file(channels: dict[str, int]) -> None:
    policy = PruningPolicy.of(channels)
    assert policy.as_dict() == channels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        save_policy(path, policy, model="resnet20", original=dict.fromkeys(channels, 4096))
        assert load_policy(path) == policy


def test_the_file_says_what_is_kept_of_what(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    save_policy(path, PruningPolicy.of({"layer1": 8, "fc": 3}), model="net", original={"layer1": 16, "fc": 4})
    groups = {"layer1": {"kept": 8, "of": 16}, "fc": {"kept": 3, "of": 4}}
    assert json.loads(path.read_text()) == {"schema": 1, "model": "net", "groups": groups}


def test_the_model_and_the_widths_come_back_where_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"schema": 1, "model": "net", "groups": {"a": {"kept": 3, "of": 4}, "b": {"kept": 2}}}')
    stored = load_stored_policy(path)
    assert (stored.policy.as_dict(), stored.model, stored.widths) == ({"a": 3, "b": 2}, "net", {"a": 4})
    path.write_text('{"schema": 1, "model": 7, "groups": {}}')
    assert load_stored_policy(path).model is None
    path.write_text('{"schema": 1, "groups": {"a": {"kept": 3, "of": "4"}}}')
    with pytest.raises(InputError, match=r"policy\.json: groups\.a\.of: must be a whole number"):
        load_stored_policy(path)


def test_keys_are_equal_for_equal_policies_only() -> None:
    assert PruningPolicy.of({"a": 1, "b": 2}).key == '{"a":1,"b":2}'
    assert PruningPolicy.of({"a": 1, "b": 2}).key == PruningPolicy((("a", 1), ("b", 2))).key
    assert PruningPolicy.of({"a": 1, "b": 2}).key != PruningPolicy.of({"a": 2, "b": 1}).key


def test_impossible_policies_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="group a would keep -1 channels"):
        PruningPolicy.of({"a": -1})
    with pytest.raises(ValueError, match="named twice"):
        PruningPolicy((("a", 1), ("a", 2)))


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "7",
        "{}",
        '{"schema": 2, "groups": {}}',
        '{"schema": 1}',
        '{"schema": 1, "groups": []}',
        '{"schema": 1, "groups": {"a": 5}}',
        '{"schema": 1, "groups": {"a": {"of": 5}}}',
        '{"schema": 1, "groups": {"a": {"kept": -1}}}',
        '{"schema": 1, "groups": {"a": {"kept": 2.7}}}',
        '{"schema": 1, "groups": {"a": {"kept": "2"}}}',
        '{"schema": 1, "groups": {"a": {"kept": true}}}',
        '{"schema": 1, "groups": {"a": {"kept": Infinity}}}',
        "{",
    ],
)
def test_files_that_are_no_policy_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"policy\.json: "):
        load_policy(path)
