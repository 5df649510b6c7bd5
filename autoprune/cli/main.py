"""The command line. Exit codes: 0 done, 1 failed midway, 2 bad input."""

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from autoprune import __version__
from autoprune.cli import bench, compare, evaluate, front, inspect, nni
from autoprune.cli.options import (
    PROCESSES,
    Address,
    ConfigArgument,
    OnExecutor,
    Overrides,
    Quiet,
    Resume,
    RunDirOption,
    Seed,
    cluster_of,
    output_of,
    path_of,
    settings_of,
)
from autoprune.cli.process import process_of_a_job
from autoprune.cli.summary import summarise, summarise_adaptive, summarise_search
from autoprune.compute.openmp import share_cores
from autoprune.errors import AutopruneError, InputError, shown
from autoprune.foundation import progress
from autoprune.foundation.factories import short_name, users_errors
from autoprune.foundation.plain import open_streams, print_plainly

NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)  # a name that no rights and no waiting would mend
INTERRUPTED = 130  # what Typer ends with on Ctrl-C

app = typer.Typer(
    name="autoprune",
    help="Learns where to prune a trained network: smaller and faster, measured, at no loss of accuracy.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point, with the process's own arguments or those given: every error that a user can mend becomes one
    message and an exit code."""
    open_streams()
    print_plainly()
    share_cores()
    try:
        with users_errors():
            app(args=None if arguments is None else list(arguments), standalone_mode=True)
    except AutopruneError as error:
        _fail(str(error), error.exit_code)
    except UnicodeEncodeError as error:  # a name from a file, such as a configuration, that no file can have here
        _fail(f"{shown(error.object)}: no name of a file in this locale ({error.encoding}); set LC_ALL=C.UTF-8", 2)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"{error.filename or 'a file'}: the disk is full; free some space and go on with --resume", 1)
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}", 2 if error.errno in NO_PATH else 1)
        raise
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _fail("stopped; go on with --resume", INTERRUPTED)
        raise


@app.command(
    epilog="Example: `autoprune run demo --run-dir runs/demo`, then open `runs/demo/report.html`",
)
def run(
    config: ConfigArgument,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    resume: Resume = False,
    seed: Seed = None,
    executor: OnExecutor = PROCESSES,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """The whole job: baseline, search, apply, fine-tune, export, measure, report."""
    settings = settings_of(config, override, {"seed": seed})
    if settings.problem == "toy":
        raise InputError("problem: toy has no model to prune; use `autoprune search toy`")
    from autoprune.jobs.run import run as run_job

    cluster = cluster_of(executor, address, settings)
    folder = run_dir or Path("runs") / Path(config).stem
    with process_of_a_job(quiet):
        result = run_job(settings, folder, resume=resume, cluster=cluster)
    summarise(result, folder)


@app.command(
    epilog="Example: `autoprune adapt fashion_mnist_adaptive --run-dir runs/adaptive`, then open "
    "`runs/adaptive/adaptive.html`. From the same levels, a faster one that may lose half a point: `autoprune adapt "
    "fashion_mnist_adaptive -o adaptive.levels_from=runs/adaptive -o adaptive.max_drop=0.005 --run-dir runs/faster`",
)
def adapt(
    config: ConfigArgument,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    resume: Resume = False,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """An input-adaptive model: easy inputs run a smaller level than hard ones, for real, in one ONNX file."""
    settings = settings_of(config, override, {"seed": seed})
    if settings.problem == "toy":
        raise InputError("problem: toy has no model to adapt")
    from autoprune.adaptive.job import adapt as adapt_alone

    folder = run_dir or Path("runs") / f"{Path(config).stem}-adaptive"
    with process_of_a_job(quiet):
        adapt_alone(settings, folder, resume=resume)
    summarise_adaptive(folder)


@app.command(
    epilog="Example: `autoprune search toy --agent ppo`, or `autoprune search demo --agent td3 --run-dir runs/td3`. "
    "Another target from what that has measured, in seconds: `autoprune search demo -o search.trials_from=runs/td3 "
    "-o target.0.max_ratio=0.3 --run-dir runs/third`",
)
def search(
    config: ConfigArgument,
    agent: Annotated[
        str | None,
        typer.Option(
            help="ddpg, td3, sac, tqc, crossq, ppo, evolution, tpe, nsga2, sensitivity, knapsack, global_magnitude, "
            "random, uniform or path/file.py:factory."
        ),
    ] = None,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    resume: Resume = False,
    seed: Seed = None,
    executor: OnExecutor = PROCESSES,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Policy search alone: leaves `policy.json`, `trials.sqlite` and the trained agent."""
    settings = settings_of(config, override, {"search.agent": agent, "seed": seed})
    from autoprune.jobs.search import search as search_alone

    cluster = cluster_of(executor, address, settings)
    folder = run_dir or Path("runs") / f"{Path(config).stem}-{short_name(settings.search.agent)}-seed{settings.seed}"
    with process_of_a_job(quiet):
        outcome = search_alone(settings, folder, resume=resume, cluster=cluster)
    summarise_search(outcome, folder)


@app.command(
    epilog="Example: `autoprune apply demo --agent runs/demo/agent --model resnet56 --checkpoint my.safetensors`, or "
    "for another target `autoprune apply demo --agent runs/demo/agent -o 'target={metric: latency, max_ratio: 0.4}' "
    "--run-dir runs/faster`. Who proposed what is told in the terminal, in `report.html`, and in `result.json` under "
    "`search.proposals`",
)
def apply(
    config: ConfigArgument,
    agent: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--agent"), help="Folder of a trained agent, as a search leaves it.", metavar="DIR"
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(parser=path_of("--policy"), help="A stored `policy.json`.", metavar="FILE")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the configuration's.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Its weights (safetensors or a torch file).")] = None,
    checkpoint_key: Annotated[str | None, typer.Option(help="Which weights of several in that file: `ema`.")] = None,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    resume: Resume = False,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Apply a trained agent, or a stored policy, to a (new) model: no search, the rest of the job as in `run`.

    What an agent proposes is scored beside `uniform`, `global_magnitude` and `knapsack`, and the best that meets the
    target as measured is applied: an agent that was trained for another model or target does no harm. A stored policy
    is scored beside them too, but applied whatever comes out.
    """
    named = {"model.name": model, "model.checkpoint": checkpoint, "model.checkpoint_key": checkpoint_key}
    settings = settings_of(config, override, {**named, "seed": seed})
    from autoprune.jobs.apply import applied_choice
    from autoprune.jobs.run import run as run_job

    choose = applied_choice(settings, agent=agent, policy=policy)
    folder = run_dir or Path("runs") / f"{Path(config).stem}-applied"
    with process_of_a_job(quiet):
        result = run_job(settings, folder, resume=resume, choose=choose, command="apply")
    summarise(result, folder)


@app.command(
    epilog="Example: `autoprune train fashion_mnist_baseline --out resnet20.safetensors`",
)
def train(
    config: ConfigArgument,
    out: Annotated[
        Path, typer.Option(parser=output_of("--out"), help="Where the weights go (safetensors).", metavar="FILE")
    ],
    override: Overrides = None,
    resume: Resume = False,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Train a baseline model and write its weights."""
    settings = settings_of(config, override, {"seed": seed})
    from autoprune.jobs.train import train as train_alone

    with process_of_a_job(quiet):
        trained = train_alone(settings, out, resume=resume)
    progress.console.print(
        f"search {trained.metric} {trained.search_accuracy:.4f}, test {trained.metric} {trained.test_accuracy:.4f}, "
        f"{trained.epochs} epochs",
        soft_wrap=True,
    )
    typer.echo(out)


@app.command(
    epilog="Example: `autoprune report runs/demo`, or of a search alone `autoprune report runs/td3`, then open "
    "`runs/td3/search.html`",
)
def report(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of("RUN_DIR"), help="A finished run, or a search.", metavar="RUN_DIR")
    ],
) -> None:
    """Write the HTML report of a finished run again, and that of its input-adaptive model; of a search, its page."""
    from autoprune.adaptive.report.page import write_adaptive_report
    from autoprune.reports.run import write_report
    from autoprune.reports.search import write_search_page
    from autoprune.store.run_dir import RunDir

    progress.show(True)
    folder = RunDir(run_dir)
    if folder.result.exists():
        typer.echo(write_report(run_dir))
    elif not folder.adaptive.is_file():
        typer.echo(write_search_page(run_dir))
    if folder.adaptive.is_file():
        typer.echo(write_adaptive_report(folder))


app.command(epilog=inspect.EPILOG)(inspect.inspect)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=front.EPILOG)(front.front)
app.add_typer(nni.app)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


def _fail(message: str, exit_code: int) -> NoReturn:
    line = " ".join(message.split())  # other libraries' messages may have many lines
    progress.console.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
    sys.exit(exit_code)
