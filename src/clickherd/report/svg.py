"""The look of the charts, and matplotlib figures as SVG that sits in the page.

The SVG takes its colours from the page's CSS variables, so that it follows the reader's light or dark theme, and its
text is text, in the page's font. Nothing global is left changed, and the same figure gives the same text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Colours that stand for a CSS variable until the SVG is written; no chart uses them as themselves.
INK, MUTED, GRID, FIRST, SECOND, PAPER, THIRD = (f"#0{i}0{i}0{i}" for i in range(1, 8))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    PAPER: "var(--card)",
    THIRD: "var(--good)",
}
WIDTH, HEIGHT = (
    5.0,
    3.75,
)  # inches at 72 units each: about as wide as a phone's screen, so that text of 12 units stays legible

STYLE: dict[Any, Any] = {  # matplotlib types the keys as a union of all of its settings
    "svg.fonttype": "none",
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that the layout is the same everywhere
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "axes.titlepad": 10,
    "axes.labelpad": 6,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.xmargin": 0.02,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,  # a column named $x$ is not a formula
}


def percent(value: float, digits: int = 6) -> str:
    """0.034 as 3.4%, with at most so many significant digits."""
    return f"{100 * value:.{digits}g}%"


PERCENT = FuncFormatter(lambda value, _: percent(value))


def draw(paint: Callable[..., None], label: str, *, height: float = HEIGHT, panels: Sequence[float] = (1.0,)) -> Markup:
    """The SVG of what `paint(*axes)` draws; `label` says for those who cannot see it what it shows.

    `panels` are the relative heights of axes that stand on one another and share x; `height` is in inches.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": label}), warnings.catch_warnings():
        # The reader's browser draws the text; the font used to lay it out need not have every script's letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=panels)[:, 0]
        paint(*axes)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _for_page(out.getvalue(), label)


def standalone(drawn: Markup) -> str:
    """The drawing as an SVG file of its own, in the report's colours, light or dark as the reader has it."""
    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    palette = css[: css.index("* {")]
    style = f"<style>{palette}svg {{ background: var(--card); font-family: system-ui, sans-serif; }}</style>"
    head, body = drawn.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n'


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Say what the axes show: y above the axis, where it needs no turned text; x at the right end."""
    axes.set_title(f"↑ {y}", loc="left")
    if x:
        axes.set_xlabel(f"{x} →", loc="right")


def _for_page(svg: str, label: str) -> Markup:
    """The <svg> element alone: no namespaces, no ids but those referred to, colours as CSS variables."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (element.text if element.tag in ("text", "tspan") else None), None
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            idle = (key == "id" and value not in used) or (key == "transform" and value.startswith("rotate(-0 "))
            if not idle:
                element.set(key.rpartition("}")[2], _for_page_value(key, value))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == "style" or (child.tag in ("g", "defs", "metadata") and not len(child)):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _for_page_value(key: str, value: str) -> str:
    """An attribute's value with hundredths of a unit, as more cannot be seen, the page's colours and its font."""
    if key in ("x", "y"):
        return _hundredths(value)
    if key == "d":
        return re.sub(r"-?\d+\.\d+", lambda number: _hundredths(number[0]), " ".join(value.split()))
    if key == "style":
        value = re.sub(r"font-family: [^;]+; ?|font: |stroke-linejoin: \w+;? ?", "", value)
        for colour, variable in VARIABLES.items():
            value = value.replace(colour, variable)
    return value


def _hundredths(number: str) -> str:
    return f"{float(number):.2f}".rstrip("0").rstrip(".")
