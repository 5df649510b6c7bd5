"""`autoprune evaluate CONFIG FILE...`: the command alone; what it needs is imported when it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import ConfigArgument, JsonTo, Overrides, Quiet, path_of
from autoprune.errors import InputError
from autoprune.foundation import progress, terminal

if TYPE_CHECKING:
    from rich.console import Group

    from autoprune.jobs.evaluate import Evaluation, FileFigures

EPILOG = (
    "Example: `autoprune evaluate demo runs/demo/export/original.onnx runs/demo/export/model.onnx "
    "runs/demo/export/adaptive.onnx`"
)


def evaluate(
    config: ConfigArgument,
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=path_of("FILE"),
            help="Exported ONNX files; the first is what others compare with.",
            metavar="FILE...",
        ),
    ],
    split: Annotated[str, typer.Option(help="test, or search for what is still to be chosen from.")] = "test",
    override: Overrides = None,
    json_to: JsonTo = None,
    quiet: Quiet = False,
) -> None:
    """Exported files on real images, each image alone through all files in turn: accuracy, mean latency, levels."""
    if split not in ("test", "search"):
        raise InputError(f"--split {split}: must be test or search")
    from autoprune.cli.outputs import check_outputs, console_beside, json_file, json_kind, write_figures
    from autoprune.compute.machine import check_machine
    from autoprune.config import CLASSIFICATION_NAME
    from autoprune.config.file import find_config, load_config
    from autoprune.data import load_search_data, load_test_split, tell_repeated
    from autoprune.jobs.evaluate import KIND, check_files, evaluate_files
    from autoprune.runtimes.find import find_runtime

    configuration = find_config(config)
    settings = load_config(configuration, override or [])
    check_outputs([("--json", json_file(json_to), json_kind(KIND))], [configuration, *files])
    if settings.problem == "toy":
        raise InputError("problem: toy has no images")
    if settings.task != CLASSIFICATION_NAME:
        raise InputError(
            f"task={settings.task}: `evaluate` judges classification alone; `result.json` of a run has its metric"
        )
    check_machine(settings)
    runtime = find_runtime(settings.measure.runtime)
    progress.show(not quiet)
    data = load_search_data(settings.data)
    checked = check_files([str(file) for file in files], data.info, runtime=runtime)
    images = data.search
    if split == "test":
        images = load_test_split(settings.data)
        tell_repeated(data, images)
    found = evaluate_files(checked, images, data.info, split=split, threads=settings.measure.threads, runtime=runtime)
    console_beside(json_to).print(_table(found))  # before anything is written: a full disk loses no measurement
    write_figures(found.as_json(), json_to)


def _table(found: "Evaluation") -> "Group":
    threads = "1 thread" if found.device.threads == 1 else f"{found.device.threads} threads"
    title = f"{found.images:,} images of {found.data}, {found.split} split; {found.device.runtime}, {threads}, "
    names = ("", *(file.name for file in found.files))
    made = terminal.figures(names, ((label, *map(shown, found.files)) for label, shown in ROWS))
    return terminal.titled(
        title + found.device.cpu, made, "in brackets: 95% intervals; changes and ratios: to the first file"
    )


def _points(file: "FileFigures") -> str:
    if file.accuracy_change is None or file.accuracy_change_ci95 is None:
        return ""
    low, high = file.accuracy_change_ci95
    return f"{100 * file.accuracy_change:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})".replace("-", "−")


def _ratio(file: "FileFigures") -> str:
    if file.latency_ratio is None or file.latency_ratio_ci95 is None:
        return ""
    low, high = file.latency_ratio_ci95
    return f"{file.latency_ratio:.3f} ({low:.3f}–{high:.3f})"


ROWS: "tuple[tuple[str, Callable[[FileFigures], str]], ...]" = (
    ("accuracy", lambda file: f"{100 * file.accuracy:.2f}%"),
    ("change, points", _points),
    ("mean latency", lambda file: f"{file.latency_ms_mean:.3f} ms"),
    ("mean, of the first's", _ratio),
    ("p50", lambda file: f"{file.latency_ms_p50:.3f} ms"),
    ("p95", lambda file: f"{file.latency_ms_p95:.3f} ms"),
    ("worst", lambda file: f"{file.latency_ms_max:.3f} ms"),
    ("answered by level", lambda file: " ".join(f"{share:.0%}" for share in file.level_share or ())),
    ("file", lambda file: f"{file.file_bytes / 1e6:.2f} MB"),
)
