"""`autoprune nni ...`: the commands alone; what they need is imported when they run."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import (
    ConfigArgument,
    Overrides,
    Quiet,
    Resume,
    RunDirOption,
    Seed,
    output_of,
    path_of,
    settings_of,
)
from autoprune.cli.process import process_of_a_job
from autoprune.cli.summary import summarise, summarise_search
from autoprune.errors import InputError, RunError
from autoprune.foundation import progress, terminal

if TYPE_CHECKING:
    from autoprune.nni.manager import Server
    from autoprune.results.run import RunResult
    from autoprune.search.problem import Outcome

app = typer.Typer(
    name="nni", help="Searches as experiments of NNI 3.0: its tuners, its web page.", no_args_is_help=True
)

Tuner = Annotated[
    str | None,
    typer.Option(help="agent, TPE, Evolution, Random, GridSearch, GP, Metis, PBT or path/file.py:Class."),
]
Port = Annotated[
    int | None, typer.Option(help="Of the web page. Default: the first free one from 8080.", min=1024, max=65535)
]
Host = Annotated[
    str,
    typer.Option(help="Of the web page; or 0.0.0.0, all addresses of this machine: NNI has no login."),
]
SearchOnly = Annotated[
    bool, typer.Option("--search-only", help="End after the search, as `autoprune search` does: leaves `policy.json`.")
]
RunDirArgument = Annotated[Path, typer.Argument(parser=path_of("RUN_DIR"), help="The run's folder.", metavar="RUN_DIR")]
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
POLL_S = 0.5
LINGER_S = 1.0  # TPE dies of a trial whose end NNI hears of before its result


@app.command(epilog="Example: `autoprune nni run nni_fashion_mnist --tuner TPE --run-dir runs/tpe`")
def run(
    config: ConfigArgument,
    tuner: Tuner = None,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    resume: Resume = False,
    search_only: SearchOnly = False,
    port: Port = None,
    host: Host = LOOPBACK,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """The whole job, its search an NNI experiment that ends by itself; leaves all that `autoprune run` does."""
    settings = settings_of(config, override, {"nni.tuner": tuner, "seed": seed})
    folder = run_dir or Path("runs") / f"{Path(config).stem}-nni"
    from autoprune.jobs.nni import nni_run

    with process_of_a_job(quiet):
        found = nni_run(settings, folder, resume=resume, server=_server(port, host), search_only=search_only)
    _told(found, folder)


@app.command(epilog="Example: `autoprune nni resume runs/tpe`")
def resume(
    run_dir: RunDirArgument,
    search_only: SearchOnly = False,
    port: Port = None,
    host: Host = LOOPBACK,
    quiet: Quiet = False,
) -> None:
    """Go on with an experiment that was stopped or killed: no finished trial is lost or repeated."""
    from autoprune.jobs.nni import resumed

    with process_of_a_job(quiet):
        found = resumed(run_dir, server=_server(port, host), search_only=search_only)
    _told(found, run_dir)


@app.command(epilog="Example: `autoprune nni view runs/tpe --port 8090`")
def view(run_dir: RunDirArgument, port: Port = None, host: Host = LOOPBACK) -> None:
    """Serve the web page of an experiment that has ended, until Ctrl-C."""
    from autoprune.jobs.nni import viewed
    from autoprune.nni.client import EXPERIMENT
    from autoprune.nni.processes import is_alive, marked

    progress.show(True)
    with viewed(run_dir, server=_server(port, host)) as url, contextlib.suppress(KeyboardInterrupt):
        typer.echo(url)
        serving = list(marked(run_dir / EXPERIMENT))
        while serving and all(is_alive(process) for process in serving):
            time.sleep(POLL_S)
        raise RunError(f"{run_dir}: its page was stopped or killed; `autoprune nni view {run_dir}` shows it again")


@app.command(epilog="Example: `autoprune nni stop runs/tpe`; go on with `autoprune nni resume runs/tpe`")
def stop(run_dir: RunDirArgument) -> None:
    """End an experiment and all its processes; what is finished is kept."""
    from autoprune.jobs.nni import stop as stop_all

    progress.show(True)
    ended = stop_all(run_dir)
    typer.echo(f"{run_dir}: {ended} processes ended" if ended else f"{run_dir}: nothing was running")


@app.command("list", epilog="Example: `autoprune nni list runs`")
def list_(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(parser=path_of("DIR"), help="Folders of runs. Default: `runs`.", metavar="[DIR...]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """The experiments of runs: how far each is, and whether it is running, finished or stopped."""
    from dataclasses import asdict

    from autoprune.jobs.nni import listed

    found = listed(folders or [Path("runs")])
    if as_json:
        rows = [{**asdict(each), "folder": str(each.folder)} for each in found]
        typer.echo(json.dumps({"schema": 1, "experiments": rows}, indent=2))
        return
    columns = ("folder", "experiment", "tuner", "trials", "state")
    cells = []
    for each in found:
        trials = f"{each.trials}" if each.of is None else f"{each.trials} of {each.of}"
        cells.append((str(each.folder), each.id or "your own", each.tuner, trials, each.state))
    terminal.stdout_console().print(terminal.figures(columns, cells, names=3))


@app.command(
    epilog="Example: `autoprune nni space demo --tuner TPE --run-dir runs/mine --out search_space.json`, for an "
    "experiment of your own whose trials are `autoprune nni trial demo --run-dir runs/mine`"
)
def space(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(parser=output_of("--out"), help="Where it goes (JSON).", metavar="FILE")] = Path(
        "search_space.json"
    ),
    tuner: Tuner = None,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    quiet: Quiet = False,
) -> None:
    """Write NNI's `search_space.json` for an experiment of your own: the options of each decision on this machine."""
    settings = settings_of(config, override, {})
    proposer = settings_of(config, override, {"nni.tuner": tuner}).nni.tuner  # what scores trials needs not know it
    from autoprune.foundation.files import write_json
    from autoprune.jobs.nni import space_of

    folder = _own_folder(config, run_dir)
    with process_of_a_job(quiet):
        write_json(out, space_of(settings, folder, tuner=proposer))
    typer.echo(out)


@app.command(
    epilog="Example, in NNI's config.yml: `trialCommand: autoprune nni trial demo --run-dir runs/mine`",
)
def trial(config: ConfigArgument, override: Overrides = None, run_dir: RunDirOption = None) -> None:
    """One trial of an experiment of your own: scored by a service that the first trial starts."""
    from autoprune.nni.client import NotStarted, ensure_service
    from autoprune.nni.trial import channel_to_nni, serve_trial
    from autoprune.nni.wire import ServiceGone

    try:
        folder = ensure_service(config, None if run_dir is None else str(run_dir), override or [], within=Path.cwd())
        refused = serve_trial(folder, channel_to_nni())
        time.sleep(LINGER_S)
    except NotStarted as error:
        raise InputError(str(error).removeprefix("error: ")) from None
    except ServiceGone:
        refused = "the service that scores trials has ended"
    if refused is not None:
        sys.exit(refused)


@app.command(epilog="Example: `autoprune nni serve demo --run-dir runs/mine`")
def serve(
    config: ConfigArgument,
    override: Overrides = None,
    run_dir: RunDirOption = None,
    idle_minutes: Annotated[float, typer.Option(help="End when no trial has come for so long.", min=0.01)] = 10.0,
    quiet: Quiet = False,
) -> None:
    """Score the trials of an experiment of your own. The first trial starts this by itself."""
    settings = settings_of(config, override, {})
    from autoprune.jobs.nni import serve as serve_trials

    with process_of_a_job(quiet):
        serve_trials(settings, _own_folder(config, run_dir), idle_minutes=idle_minutes)


@app.command(
    epilog='Example, before `nnictl create`: `export NODE_OPTIONS="$(autoprune nni loopback)"`',
)
def loopback() -> None:
    """Print the option that keeps NNI's web page on 127.0.0.1, for experiments that NNI itself begins."""
    from autoprune.nni.manager import PRELOAD, preloading

    typer.echo(preloading(PRELOAD))


def _own_folder(config: str, run_dir: Path | None) -> Path:
    from autoprune.nni.client import folder_of

    return folder_of(config, None if run_dir is None else str(run_dir)).parent


def _server(port: int | None, host: str) -> "Server":
    from autoprune.nni.manager import Server

    if host not in (LOOPBACK, EVERYWHERE):
        raise InputError(f"--host {host}: NNI's own processes ask for it at localhost: give {LOOPBACK} or {EVERYWHERE}")
    if host != LOOPBACK:
        progress.show(True)
        progress.say(f"--host {host}: NNI's page has no login: whoever reaches this address can start processes here")
    return Server(port, host)


def _told(found: "RunResult | Outcome", folder: Path) -> None:
    from autoprune.results.run import RunResult

    if isinstance(found, RunResult):
        summarise(found, folder)
    else:
        summarise_search(found, folder)
