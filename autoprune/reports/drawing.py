"""What charts have in common: size, style and colours, and figures as SVG text for a page that defines the colours.

Figures are made without pyplot, so that nothing global is left behind. Colours are written as CSS variables
(`--ink`, `--accent`, ...), so that one picture serves light and dark pages. Equal data give equal text.
"""

import io
import warnings
from typing import Any
from xml.etree import ElementTree

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH_IN = 4.4  # its text is as large as a page's small print, also on a telephone
HEIGHT_IN = 2.8
MAX_LABEL_CHARACTERS = 30

# matplotlib wants real colours: each of these stands for a CSS variable until the SVG is written.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "faint": "#040404",
    "accent": "#050505",
    "best": "#060606",
    "series3": "#070707",
    "series4": "#080808",
    "series5": "#090909",
    "surface": "#0a0a0a",
}
SERIES = ("accent", "best", "series3", "series4", "series5")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and drawn in the page's font
    "svg.hashsalt": "autoprune",
    "text.parse_math": False,  # names are data; a dollar sign is a dollar sign
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
    "legend.fontsize": 8,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def shorten(name: str) -> str:
    """`name` for a chart: printable, with the middle left out when it is long (ends tell layers apart)."""
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if len(printable) <= MAX_LABEL_CHARACTERS:
        return printable
    head = MAX_LABEL_CHARACTERS // 2
    return f"{printable[:head]}…{printable[head + 1 - MAX_LABEL_CHARACTERS :]}"


def new_axes(height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    return figure, axes


def label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.ticklabel_format(useOffset=False)
    if xlabel in ("episode", "epoch"):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.08)


def add_legend(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.4)


def as_svg(figure: Figure, *, name: str, description: str) -> str:
    """`figure` as an `<svg>` element that scales with the page; `name` makes its ids unique there."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in letters that matplotlib's own font lacks: the page's fonts will have them.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", description)
    for element in root.iter():
        element.attrib.update({key: _rewrite(key, value, name) for key, value in element.attrib.items()})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href":
        return value.replace("#", f"#{name}-", 1)
    value = value.replace("url(#", f"url(#{name}-")
    for variable, colour in COLOURS.items() if key == "style" else ():
        value = value.replace(colour, f"var(--{variable})")
    return value
