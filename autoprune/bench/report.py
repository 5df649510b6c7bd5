"""Results of `autoprune bench` for the terminal: a column for each file, and a table of the batch sweep."""

from collections.abc import Callable, Sequence

from rich.table import Table

from autoprune.bench.result import BenchResult, FileResult, Interval, SweepPoint
from autoprune.foundation.terminal import figures
from autoprune.measure.energy_measurement import EnergyReading

ROWS: tuple[tuple[str, Callable[[FileResult], str]], ...] = (
    ("p50", lambda file: f"{_ms(file.latency_ms_p50)} ({_interval(file.latency_ms_p50_ci95)})"),
    ("p95", lambda file: _ms(file.latency_ms_p95)),
    ("quiet", lambda file: _ms(file.quiet_ms)),
    ("throughput", lambda file: f"{file.images_per_s:,.0f} images/s"),
    ("speed-up", lambda file: _speedup(file)),
    ("load", lambda file: f"{file.load_ms:,.0f} ms"),
    ("file", lambda file: _megabytes(file.file_bytes)),
    ("peak memory", lambda file: _megabytes(file.peak_rss_bytes)),
    ("subnormal weights", lambda file: "–" if file.subnormal_weights is None else str(file.subnormal_weights)),
    ("input", lambda file: "×".join(map(str, file.input_shape))),
    ("calls timed", lambda file: f"{file.calls:,}"),
)

ENERGY_ROWS: tuple[tuple[str, Callable[[EnergyReading], str]], ...] = (
    ("energy above idle", lambda energy: _mj(energy.net_mj, energy.net_ci95_mj)),
    ("energy in all", lambda energy: _mj(energy.gross_mj, energy.gross_ci95_mj)),
    ("idle power", lambda energy: f"{energy.idle_power_w:.3g} W"),
    ("measured by", lambda energy: energy.sensor),
)

LEGEND = "in brackets: 95% intervals; quiet: a call that nothing disturbed; speed-up: against the first"


def headline(result: BenchResult) -> str:
    device = result.device
    threads = "1 thread" if device.threads == 1 else f"{device.threads} threads"
    return f"{device.runtime}, {device.provider}, {threads}, batch {device.batch_size}, {device.cpu}"


def table(result: BenchResult) -> Table:
    rows = [(label, *map(shown, result.files)) for label, shown in ROWS]
    if readings := [file.energy for file in result.files if file.energy is not None]:
        rows += [(label, *map(shown, readings)) for label, shown in ENERGY_ROWS]
    return figures(("", *(file.name for file in result.files)), rows)


def sweep_table(points: Sequence[SweepPoint]) -> Table:
    """Images per second, and milliseconds for each image, by batch size; undisturbed."""
    names = list(dict.fromkeys(point.name for point in points))
    by_cell = {(point.name, point.batch_size): point for point in points}
    rows = []
    for batch_size in dict.fromkeys(point.batch_size for point in points):
        cells = [by_cell[name, batch_size] for name in names]
        rows.append(
            [str(batch_size), *(f"{cell.images_per_s:,.0f} images/s, {_ms(cell.ms_per_image)} each" for cell in cells)]
        )
    return figures(("batch", *names), rows, names=0)


def _speedup(file: FileResult) -> str:
    if file.speedup is None or file.speedup_ci95 is None:
        return ""
    return f"{file.speedup:.3f}× ({_interval(file.speedup_ci95)})"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3f} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"


def _interval(interval: Interval) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def _mj(millijoules: float, interval: Interval) -> str:
    return f"{millijoules:.3g} mJ ({interval[0]:.3g}–{interval[1]:.3g})"


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.2f} MB"
