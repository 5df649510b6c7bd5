"""`autoprune compare CONFIG`: the command alone; what it needs is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.options import ConfigArgument, Overrides, Quiet, Resume, path_of
from autoprune.cli.process import process_of_a_job
from autoprune.foundation import progress

DEFAULT_SEARCHERS = "ddpg,evolution,knapsack,sensitivity,global_magnitude,random,uniform"
EPILOG = (
    "Example: `autoprune compare demo --seeds 3 --run-dir runs/compare`, then open `runs/compare/comparison.html`; "
    "`autoprune compare toy --searchers ddpg,sac,random` takes seconds"
)


def compare(
    config: ConfigArgument,
    searchers: Annotated[str, typer.Option(help="Names, separated by commas.", metavar="NAMES")] = DEFAULT_SEARCHERS,
    seeds: Annotated[int, typer.Option(help="So many seeds, from 0.", min=1, max=1000)] = 3,
    finetune_epochs: Annotated[
        int | None,
        typer.Option(help="For each winner. Default: as configured; 0: judge by reward alone.", min=0, max=100_000),
    ] = None,
    override: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--run-dir"), help="Where results go. Default: `runs/CONFIG-compared`.", metavar="DIR"
        ),
    ] = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Searchers side by side at equal target, evaluations and time: what they find, and what it is worth fine-tuned."""
    from autoprune.config.file import find_config, load_config
    from autoprune.jobs.compare import check_searchers
    from autoprune.jobs.compare import compare as compare_searchers
    from autoprune.reports.comparison import table, write_comparison_page

    names = [name.strip() for name in searchers.split(",")]
    check_searchers(names)
    settings = load_config(find_config(config), override or [])
    root = run_dir or Path("runs") / f"{Path(config).stem}-compared"
    epochs = settings.finetune.epochs if finetune_epochs is None else finetune_epochs

    with process_of_a_job(quiet):
        comparison = compare_searchers(
            settings, root, resume=resume, searchers=names, seeds=seeds, finetune_epochs=epochs
        )
        page = root / "comparison.html"
        write_comparison_page(comparison, page)
    progress.console.print(table(comparison))
    for verdict in comparison.verdicts:
        progress.console.print(verdict, markup=False, soft_wrap=True)
    typer.echo(page)
