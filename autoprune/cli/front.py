"""`autoprune front RUN_DIR`: the command alone; what it needs is imported when it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import path_of
from autoprune.errors import InputError
from autoprune.foundation import progress, terminal
from autoprune.foundation.paths import require_writable_folder

if TYPE_CHECKING:
    from rich.console import Group

    from autoprune.store.trials import EpisodeRow

EPILOG = (
    "Example: `autoprune front runs/demo --save runs/demo/front`, then "
    "`autoprune apply demo --policy runs/demo/front/1.json`"
)


def front(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(parser=path_of("RUN_DIR"), help="Runs or searches of one model.", metavar="RUN_DIR..."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--save"), help="Write the policies, as `1.json`, `2.json`, ..., into it.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """The Pareto front of all candidates that searches have evaluated: accuracy, latency, energy, parameters."""
    if save is not None:
        if save.exists() and not save.is_dir():
            raise InputError(f"--save {save}: is a file, not a folder")
        require_writable_folder(save, field="--save")
        if (save / "config.yaml").exists() or (save / "trials.sqlite").exists():
            raise InputError(f"--save {save}: is the folder of a run; choose another folder, such as {save / 'front'}")

    from autoprune.cli.outputs import POLICY, check_outputs
    from autoprune.jobs.front import read_front
    from autoprune.space.policy import PruningPolicy, load_stored_policy, save_policy
    from autoprune.store.run_dir import RunDir

    progress.show(True)
    rows = read_front(run_dirs)
    if not rows:
        raise InputError(f"{', '.join(map(str, run_dirs))}: no candidate was evaluated there")
    if save is not None:
        chosen = RunDir(run_dirs[0]).policy
        stored = load_stored_policy(chosen)
        if unsaid := [name for name in stored.policy.as_dict() if name not in stored.widths]:
            raise InputError(f"{chosen}: groups.{unsaid[0]}.of: must be a whole number, got None")
        if stored.widths.keys() != rows[0].channels.keys():
            raise InputError(f"{chosen}: is of another model than the trials beside it; search again")
        files = [save / f"{number}.json" for number in range(1, len(rows) + 1)]
        check_outputs([("--save", file, POLICY) for file in files], [chosen])
        save.mkdir(parents=True, exist_ok=True)
        for file, row in zip(files, rows, strict=True):
            save_policy(file, PruningPolicy.of(row.channels), model=stored.model or "", original=stored.widths)
    if as_json:
        typer.echo(json.dumps({"schema": 1, "front": [_as_dict(row) for row in rows]}, indent=2))
    else:
        terminal.stdout_console().print(_table(rows))
        if save is not None:
            typer.echo(save)


def _as_dict(row: "EpisodeRow") -> dict[str, object]:
    return {
        **{name: metric.value for name, metric in row.score.metrics.items()},
        "kl": row.score.divergence,  # as earlier versions call it
        "predicted_latency_ms": row.predicted_latency_ms,
        "estimated_energy_mj": row.estimated_energy_mj,
        "params": row.params,
        "macs": row.macs,
        "policy": row.channels,
    }


def _table(rows: "tuple[EpisodeRow, ...]") -> "Group":
    from autoprune.store.score import shown_metric

    columns = ("", rows[0].score.main[0], "divergence", "predicted ms", "estimated mJ", "params")
    cells = [
        (
            str(number),
            shown_metric(row.score.main[1].value, is_share=row.score.main[1].is_share),
            f"{row.score.divergence:.4f}",
            f"{row.predicted_latency_ms:.4f}",
            f"{row.estimated_energy_mj:.3g}",
            f"{row.params:,}",
        )
        for number, row in enumerate(rows, 1)
    ]
    return terminal.titled("before fine-tuning, on the search split", terminal.figures(columns, cells, names=0))
