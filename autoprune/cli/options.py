"""Arguments and options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

STDOUT = "-"  # in place of a file's name

ConfigArgument = Annotated[str, typer.Argument(help="YAML file, or a shipped name such as `demo`.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", help="Change one key, e.g. `-o search.max_evaluations=40`.", metavar="KEY=VALUE"),
]
RunDirOption = Annotated[Path | None, typer.Option(help="Where results go. Default: `runs/CONFIG`.", metavar="DIR")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a killed run was; repeats no evaluated trial.")]
Seed = Annotated[int | None, typer.Option(help="Overrides the configuration's seed.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")]
JsonTo = Annotated[
    str | None, typer.Option("--json", help="Write the figures as JSON; `-` for stdout.", metavar="FILE|-")
]
