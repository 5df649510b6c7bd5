"""Arguments and options that several commands have in common."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.errors import InputError
from autoprune.foundation.paths import require_writable_file, user_path

if TYPE_CHECKING:  # the commands import what they need: --help and bad usage answer without torch
    from autoprune.config import RunConfig
    from autoprune.search.ray_cluster import Cluster

STDOUT = "-"  # in place of a file's name
PROCESSES, RAY = EXECUTORS = ("processes", "ray")
PICTURES = (".png", ".svg")


def path_of(field: str) -> Callable[[str], Path]:
    """A parser of the option or argument `field`: what can be no path is bad input."""

    def parsed(text: str) -> Path:
        return user_path(text, field=field)

    return parsed


def output_of(field: str, *, endings: tuple[str, ...] = ()) -> Callable[[str], Path]:
    """The same for a file that is written at the end of the work: whether it can be is tried before; its name must end
    in one of `endings`, if any are given."""

    def parsed(text: str) -> Path:
        path = user_path(text, field=field)
        if text == STDOUT:
            raise InputError(f"{field} -: is written into a file, not to stdout; name one")
        require_writable_file(path, field=field)
        if endings and path.suffix.lower() not in endings:
            raise InputError(f"{field} {path}: must end in {' or '.join(endings)}")
        return path

    return parsed


def json_target(text: str) -> str:
    """`-`, or a file that can be written."""
    return text if text == STDOUT else str(output_of("--json")(text))


ConfigArgument = Annotated[str, typer.Argument(help="YAML file, or a shipped name such as `demo`.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", help="Change one key, e.g. `-o search.max_evaluations=40`.", metavar="KEY=VALUE"),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(parser=path_of("--run-dir"), help="Where results go. Default: `runs/CONFIG`.", metavar="DIR"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a killed run was; repeats no evaluated trial.")]
Seed = Annotated[int | None, typer.Option(help="Overrides the configuration's seed.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]
OnExecutor = Annotated[
    str,
    typer.Option(
        "--executor", help="Who scores candidates: processes of this machine, or workers of `ray`.", metavar="NAME"
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster that is there. Default: one of this machine.", metavar="HOST:PORT"),
]
JsonTo = Annotated[
    str | None,
    typer.Option("--json", parser=json_target, help="Write the figures as JSON; `-` for stdout.", metavar="FILE|-"),
]


def settings_of(config: str, overrides: list[str] | None, options: Mapping[str, str | int | None]) -> "RunConfig":
    """The configuration. `options` hold what the command line says of single keys, which is refused where `overrides`
    say otherwise."""
    from autoprune.config.file import find_config, load_config

    # As YAML text, whatever a name would mean unquoted (`null`, `[`, `1e3`).
    chosen = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items() if value is not None]
    return load_config(find_config(config), [*(overrides or []), *chosen])


def cluster_of(executor: str, address: str | None, config: "RunConfig") -> "Cluster | None":
    """Who is to score candidates; `None`: the usual processes."""
    if executor not in EXECUTORS:
        raise InputError(f"--executor {executor}: must be one of {', '.join(EXECUTORS)}")
    if executor == RAY:
        from autoprune.search.ray_cluster import Cluster

        return Cluster(config.workers, address)
    if address is not None:
        raise InputError(f"--address {address}: is of a Ray cluster; add --executor ray")
    return None
