"""The pages: the configuration's is what its script writes, links lead somewhere, and quoted commands are there."""

import re
from pathlib import Path

import configuration_page
import pytest
import typer

from autoprune.cli.main import app

CHECKOUT = Path(__file__).parents[1]
README = CHECKOUT / "README.md"
PAGES = sorted((CHECKOUT / "docs").glob("*.md"))
TEXTS = [README, CHECKOUT / "CHANGELOG.md", CHECKOUT / "CONTRIBUTING.md", *PAGES]
MOST_README_LINES = 150

FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\S*/)?autoprune +(.*)", re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def code_of(text: str) -> list[str]:
    """What stands in fences, continued lines joined, and what stands between backticks elsewhere, on one line each."""
    fenced = [block.replace("\\\n", " ") for block in FENCED.findall(text)]
    return [*fenced, *(" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text)))]


def quoted_commands(text: str) -> list[str]:
    """What follows `autoprune` where a text quotes a command, without comments."""
    return [" ".join(found.partition(" #")[0].split()) for code in code_of(text) for found in COMMAND.findall(code)]


def unknown_in(command: str) -> list[str]:
    """The subcommand that there is not, or those of its long options that it does not take."""
    known = typer.main.get_command(app).commands
    name, _, rest = command.partition(" ")
    if name.startswith("-"):
        return []
    if rest and hasattr(known.get(name), "commands"):  # a group of them
        known, (name, _, rest) = known[name].commands, rest.partition(" ")
    if name not in known:
        return [name]
    options = {option for parameter in known[name].params for option in parameter.opts} | {"--help"}
    return sorted(set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)) - options)


def broken_links(path: Path) -> list[str]:
    """Relative links to files that are not there."""
    targets = (target.partition("#")[0] for target in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))))
    return [target for target in targets if target and ":" not in target and not (path.parent / target).exists()]


def test_the_configuration_page_is_what_its_script_writes() -> None:
    written = (CHECKOUT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == configuration_page.page(), "write it anew: make docs"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_to_files(path: Path) -> None:
    assert broken_links(path) == []


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_quoted_commands_are_there(path: Path) -> None:
    commands = quoted_commands(path.read_text(encoding="utf-8"))
    assert {command: unknown for command in commands if (unknown := unknown_in(command))} == {}


def test_every_page_is_in_the_navigation_and_linked_from_the_readme() -> None:
    navigation = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    linked = README.read_text(encoding="utf-8")
    for page in PAGES:
        assert f": {page.name}\n" in navigation
        assert page.name == "index.md" or f"(docs/{page.name})" in linked


def test_checks_find_planted_mistakes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[here](page.md#top) [gone](gone.md) [far](https://example.org/gone.md)\n", encoding="utf-8")
    assert broken_links(page) == ["gone.md"]
    text = "`autoprune prune\ndemo`\n\n```sh\n.venv/bin/autoprune run demo \\\n  --fast # --slow\nmake docs\n```\n"
    assert quoted_commands(text) == ["run demo --fast", "prune demo"]
    assert [unknown_in(command) for command in quoted_commands(text)] == [["--fast"], ["prune"]]
    assert unknown_in("run CONFIG --resume --run-dir DIR") == []
    assert unknown_in("--version") == []
