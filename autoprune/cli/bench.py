"""`autoprune bench`: its options, and what it prints and writes."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import PICTURES, JsonTo, Quiet, output_of, path_of
from autoprune.errors import InputError, RunError
from autoprune.foundation import progress

if TYPE_CHECKING:  # imported by the command itself: --help answers without ONNX Runtime
    from rich.console import Console

    from autoprune.bench.measurement import Subject
    from autoprune.bench.result import BenchResult

EPILOG = "Example: `autoprune bench runs/demo/export/original.onnx runs/demo/export/model.onnx --plot bench.svg`"

MOST_IMAGES = 65_536
MOST_SECONDS = 86_400


def model_file(text: str) -> str:
    """What is to be timed, as it was given."""
    path_of("FILE")(text)
    return text


Files = Annotated[
    list[str],
    typer.Argument(
        parser=model_file, help="ONNX files; for torch pruned folders or built-in models.", metavar="FILE..."
    ),
]


def bench(
    files: Files,
    backend: Annotated[
        str,
        typer.Option(help="onnxruntime, openvino (extra `openvino`), torch, torch-compile, or path/file.py:factory."),
    ] = "onnxruntime",
    provider: Annotated[
        str | None, typer.Option(help="Execution provider. Default: the CPU's.", metavar="NAME")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each session.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Images of a call.", min=1, max=MOST_IMAGES)] = 1,
    shape: Annotated[
        str | None, typer.Option(help="One image, e.g. 1,28,28. Default: what the file says.", metavar="C,H,W")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Time for each file. Default: 5.", min=0.01, max=MOST_SECONDS)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A second for each file: wider intervals.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also throughput at batch 1, 2, 4 … 64.")] = False,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also what bounds each layer: arithmetic, memory or overhead.")
    ] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Also energy of a call, from RAPL or NVML, above idle and in all.")
    ] = False,
    json_to: JsonTo = None,
    save: Annotated[
        Path | None, typer.Option(parser=output_of("--save"), help="Keep the results for --against.", metavar="FILE")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("--against"),
            help="Compare with saved results; exit 1 if a file is slower now.",
            metavar="FILE",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output_of("--plot", endings=PICTURES), help="Draw the distributions (.png or .svg).", metavar="FILE"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure model files side by side: latency, speed-up with its interval, throughput, memory, size, load time."""
    if seconds is not None and math.isnan(seconds):
        raise InputError("--seconds nan: must be a number from 0.01")
    if quick and seconds is not None:
        raise InputError("--quick and --seconds: give one of the two")
    if roofline and (backend != "onnxruntime" or provider not in (None, "CPUExecutionProvider")):
        raise InputError("--roofline: only with ONNX Runtime's CPU provider; leave --backend and --provider out")
    from autoprune.bench.against import check_comparable, read_saved
    from autoprune.bench.inputs import parse_shape
    from autoprune.bench.measurement import (
        DEFAULT_SECONDS,
        QUICK_SECONDS,
        BenchSettings,
        device_of,
        energy_sensor,
        measure,
        prepare,
    )
    from autoprune.bench.result import KIND
    from autoprune.cli.outputs import PICTURE, check_outputs, console_beside, json_file, json_kind, write_figures
    from autoprune.compute.machine import require_threads
    from autoprune.foundation.files import write_json

    require_threads(threads, field="--threads")
    settings = BenchSettings(
        backend=backend,
        provider=provider,
        threads=threads,
        batch_size=batch,
        shape=parse_shape(shape) if shape is not None else None,
        seconds=seconds if seconds is not None else QUICK_SECONDS if quick else DEFAULT_SECONDS,
        sweep=sweep,
        energy=energy,
    )
    ours = json_kind(KIND)
    check_outputs(
        [("--save", save, ours), ("--json", json_file(json_to), ours), ("--plot", plot, PICTURE)], [*files, against]
    )
    saved = read_saved(against) if against is not None else None
    progress.show(not quiet)
    device = device_of(settings)
    sensor = energy_sensor(settings)
    subjects = prepare(files, settings)
    if saved is not None:
        check_comparable(saved, backend=backend, device=device, subjects=subjects)
    result = measure(subjects, settings, sensor)
    console = console_beside(json_to)
    _print(result, console)
    if plot is not None:
        from autoprune.bench.plot import write_plot

        write_plot(result, plot)
    document, slower = result.as_json(), list[str]()
    if roofline:
        document["roofline"] = _rooflines(subjects, threads, console)
    if saved is not None:
        document["against"], slower = _against(saved, result, console)
    if save is not None:
        write_json(save, document)
    write_figures(document, json_to)
    if slower:
        raise RunError("; ".join(slower))


def _rooflines(subjects: list["Subject"], threads: int, console: "Console") -> list[dict[str, Any]]:
    """Measure and print what bounds each file's layers; the same as JSON."""
    from autoprune.cli.roofline import roofline_view
    from autoprune.roofline.report import roofline_report

    found = []
    for subject in subjects:
        measured = roofline_report(subject, threads=threads)
        console.print(roofline_view(measured, subject.name, width=console.width))
        found.append(measured.as_json())
    return found


def _print(result: "BenchResult", console: "Console") -> None:
    from autoprune.bench.report import LEGEND, headline, sweep_table, table

    console.print(headline(result), style="bold", markup=False, soft_wrap=True)
    console.print(table(result))
    console.print(LEGEND, markup=False, soft_wrap=True)
    if result.sweep:
        console.print("throughput by batch size, undisturbed", style="bold")
        console.print(sweep_table(result.sweep))
    for line in result.warnings:
        console.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


def _against(saved: "BenchResult", result: "BenchResult", console: "Console") -> tuple[dict[str, Any], list[str]]:
    """Compare and print what is told of it; the same as JSON, and the files that are slower, each with its figures."""
    from autoprune.bench.against import against_json, compare, describe

    comparison = compare(saved, result)
    notes = [f"{name}: not in {saved.path}" for name in comparison.not_saved]
    if (then := saved.device.runtime) != result.device.runtime:
        notes.append(f"{saved.path}: saved with {then}, now {result.device.runtime}")
    notes += [describe(change, comparison, saved) for change in comparison.changes if not change.slower]
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    return against_json(saved, comparison), [describe(change, comparison, saved) for change in comparison.slower]
