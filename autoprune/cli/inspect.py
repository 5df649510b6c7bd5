"""`autoprune inspect MODEL`: the command alone; what it needs is imported when it runs."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.options import PICTURES, Quiet, output_of
from autoprune.cli.process import process_of_a_job
from autoprune.errors import InputError
from autoprune.foundation import terminal
from autoprune.foundation.paths import user_path

EPILOG = "Example: `autoprune inspect resnet20 --staircase layer3.0.conv1 --html resnet20.html`"
DEFAULT_SHAPE = (3, 32, 32)
DEFAULT_SHAPES = {"resnet20": (1, 28, 28)}
IMAGENET_SHAPE = (3, 224, 224)
IMAGENET_SOURCES = ("torchvision", "timm")
MOST_CLASSES = 100_000
LARGEST_SIDE = 16_384
BYTES_A_LOGIT = 32  # the same for what the model gives; of all images of an evaluation
PIPE_COLUMNS = 160  # wide enough for the tables when nobody's window limits them


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="Built in (`resnet20`), `torchvision:NAME`, `timm:NAME`, `file.py:factory` or `package:factory`.",
            metavar="MODEL",
        ),
    ],
    checkpoint: Annotated[
        str | None, typer.Option(help="Its weights: safetensors, a torch file, or a shipped name.", metavar="FILE")
    ] = None,
    checkpoint_key: Annotated[
        str | None, typer.Option(help="Which weights of several in that file: `ema`.", metavar="KEY")
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="C,H,W. Default: 1,28,28 for `resnet20`, 3,224,224 for torchvision and timm, else 3,32,32.",
            metavar="C,H,W",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Default: 10, or what your factory's model gives.", min=2, max=MOST_CLASSES)
    ] = None,
    width: Annotated[float, typer.Option(help="Width multiplier of a built-in model, or of your factory.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Images in a call.", min=1, max=4096)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    html: Annotated[
        Path | None, typer.Option(parser=output_of("--html"), help="Write one self-contained page.", metavar="FILE")
    ] = None,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Measure no latency: groups, counts and floors in seconds.")
    ] = False,
    staircase: Annotated[
        str | None, typer.Option(help="Time by width of the group that this layer belongs to.", metavar="LAYER")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=output_of("--plot", endings=PICTURES),
            help="The staircase as a picture: .png or .svg.",
            metavar="FILE",
        ),
    ] = None,
    validate_latency: Annotated[
        int | None,
        typer.Option(help="So many random policies, predicted and then measured.", min=2, max=1000, metavar="N"),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            parser=output_of("--table"), help="Latency table to use. Default: in the cache folder.", metavar="FILE"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """What can be pruned in a model, what it costs, how small it can get, and how long a search will take."""
    from autoprune.compute.machine import BYTES_AN_INPUT, require_memory, require_threads

    shape = _input_shape(input_shape, model)
    if not 0 < width <= 8:
        raise InputError(f"--width {width:g}: must be above 0 and at most 8")
    if width != 1 and model.partition(":")[0] in IMAGENET_SOURCES:
        raise InputError(f"--width {width:g}: {model} has no width multiplier; leave it out")
    for option, given in (("--staircase", staircase), ("--validate-latency", validate_latency), ("--table", table)):
        if no_latency and given is not None:
            raise InputError(f"{option}: needs latency; leave out --no-latency")
    if plot is not None and staircase is None:
        raise InputError(f"--plot {plot}: of what? Name a layer with --staircase LAYER")
    if checkpoint is not None:
        user_path(checkpoint, field="--checkpoint")
    elif checkpoint_key is not None:
        raise InputError(
            "--checkpoint-key: chooses among the weights in a file: give --checkpoint too, or leave it out"
        )
    require_threads(threads, field="--threads")
    require_memory(
        batch * math.prod(shape) * BYTES_AN_INPUT, field="--input-shape and --batch", fix="give smaller ones"
    )

    from autoprune.cli.outputs import PAGE, PICTURE, check_outputs
    from autoprune.config import MeasureConfig, SearchConfig
    from autoprune.inspection.as_json import as_json as json_of
    from autoprune.inspection.charts import write_staircase
    from autoprune.inspection.facts import InspectedModel
    from autoprune.inspection.inspect_model import inspect_model, load_model
    from autoprune.inspection.report import print_inspection, write_inspection_page
    from autoprune.measure.activation_memory import activation_bytes

    check_outputs([("--html", html, PAGE), ("--plot", plot, PICTURE)], [checkpoint, table, model.partition(":")[0]])
    with process_of_a_job(quiet):
        loaded, class_count = load_model(
            model, input_shape=shape, classes=classes, width=width, checkpoint=checkpoint, checkpoint_key=checkpoint_key
        )
        search, measure = SearchConfig(), MeasureConfig(threads=threads, batch_size=batch)
        images = search.score_images + search.calibration_images
        require_memory(images * class_count * BYTES_A_LOGIT, field=f"--classes {class_count}", fix="give fewer")
        if batch > 1 and not no_latency:
            needed = activation_bytes(loaded, shape).of_table(batch)
            require_memory(needed, field=f"--batch {batch}", fix="lower it, or leave out latency with --no-latency")
        facts = inspect_model(
            loaded,
            InspectedModel(model, checkpoint, width, shape, class_count),
            search=search,
            measure=measure,
            with_latency=not no_latency,
            table_path=table,
            staircase_of=staircase,
            validations=validate_latency or 0,
        )
    if html is not None:
        write_inspection_page(facts, html)
    if plot is not None:
        assert facts.staircase is not None
        write_staircase(facts.staircase, plot)
    if as_json:
        typer.echo(json.dumps(json_of(facts), indent=2, allow_nan=False))
        return
    print_inspection(facts, terminal.stdout_console(columns=PIPE_COLUMNS))
    for file in (html, plot):
        if file is not None:
            typer.echo(file)


def _is_size(text: str) -> bool:
    return text.isdecimal() and len(text) < 9 and 0 < int(text) <= LARGEST_SIDE


def _input_shape(text: str | None, model: str) -> tuple[int, int, int]:
    source, separator, _ = model.partition(":")
    if text is None:
        if separator and source in IMAGENET_SOURCES:
            return IMAGENET_SHAPE
        return DEFAULT_SHAPES.get(model, DEFAULT_SHAPE)
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(_is_size(part.strip()) for part in parts):
        raise InputError(
            f"--input-shape {text}: must be channels, height and width, such as 3,32,32, each up to {LARGEST_SIDE}"
        )
    channels, height, wide = map(int, parts)
    return channels, height, wide
