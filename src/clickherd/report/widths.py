"""What `clickherd widths` leaves to read: how far the outputs of each layer move, by width, with μP and without."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clickherd.checkpoint import write_text
from clickherd.report.sweep import markdown

WAYS = {"standard": "as it is", "mup": "with μP"}


def head(result: Mapping[str, Any]) -> list[str]:
    """The table's columns: how many times the narrow width, and the factor of a doubling."""
    return ["layer", "", *(f"{factor}×" for factor in result["times"]), "doubling"]


def rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table's cells as text, two lists per layer."""
    for layer in result["layers"]:
        for way, title in WAYS.items():
            line = layer[way]
            name = layer["name"] + (" (readout)" if layer["readout"] else "")
            yield [name, title, *(f"{moved:.3g}" for moved in line["moved"]), f"× {2 ** line['slope']:.2f}"]


def told(result: Mapping[str, Any]) -> list[str]:
    """The outcome in words."""
    layers = [layer for layer in result["layers"] if not layer["readout"]]
    factors = [[2 ** layer[way]["slope"] for layer in layers] for way in WAYS]
    lines = [
        f"{title}: twice the width moves a layer's outputs {min(found):.2f} to {max(found):.2f} times as far"
        for title, found in zip(WAYS.values(), factors, strict=True)
    ]
    if result["holds"]:
        return [
            *lines,
            "With μP rates that suit the narrow model suit the wide one; optim.mup_base names the narrow one's widths.",
        ]
    return [*lines, "With μP they should move as far: do not rely on rates of a narrow model here."]


def write_widths(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.md and widths.svg."""
    from clickherd.report.svg import standalone

    write_text(folder / "widths.svg", standalone(chart(result)))
    parts = [
        f"# {result['model']} at several widths",
        f"{result['steps']} batches of {result['batch_size']:,} rows; 1× is {json.dumps(result['narrow'])}.",
        f"{result['machine']}.",
        "\n".join(f"- {line}" for line in told(result)),
        markdown(head(result), rows(result)),
        f"How far a layer's outputs are from those before the first batch: mean over {result['rows']['compared']:,} "
        f"rows, units and {result['seeds']} seeds. What a readout's random start adds shrinks with the width, so its "
        "outputs may move less.",
        "![how far outputs move, by width](widths.svg)",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def chart(result: Mapping[str, Any]) -> Any:
    """Mean change of each layer's outputs by width; an SVG for a page."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import FixedLocator, NullLocator

    from clickherd.report.svg import FIRST, INK, MUTED, SECOND, THIRD, draw, name_axes

    times = result["times"]

    def paint(*panels: Axes) -> None:
        for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
            for place, layer in enumerate(result["layers"]):
                colour = (FIRST, SECOND, THIRD, INK, MUTED)[place % 5]
                label = layer["name"] if way == "standard" else None
                axes.plot(times, layer[way]["moved"], color=colour, marker="osD^v"[place % 5], label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(times))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
            name_axes(axes, "width" if axes is panels[-1] else "", f"moved, {title}")
        low, high = (pick(axes.get_ylim()[side] for axes in panels) for side, pick in ((0, min), (1, max)))
        for axes in panels:
            axes.set_ylim(low, high)
        panels[0].figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)

    return draw(paint, " ".join(told(result)), height=6.0, panels=(1.0, 1.0))
